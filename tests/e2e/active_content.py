"""Files that a browser may take for a program, a row each, under every name we could think of."""

from dataclasses import dataclass

# Without `<`, `&` and `"`, so that it stands as it is in HTML, in XML and in their attributes.
SCRIPT = (
    "(function(){"
    "try{localStorage.setItem('ran','@CASE@')}catch(e){}"
    "try{document.cookie='ran=@CASE@;path=/'}catch(e){}"
    "try{document.title='ran'}catch(e){}"
    "try{fetch('@BEACON@',{mode:'no-cors'})}catch(e){}"
    "try{new Image().src='@BEACON@'}catch(e){}"
    "})();"
)
HTML = f'<!doctype html><title>still</title><body onload="{SCRIPT}"><script>{SCRIPT}</script>'
XHTML = (
    '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>still</title></head>'
    f"<body><script>{SCRIPT}</script></body></html>"
)
SVG = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="{SCRIPT}">'
    f"<script>{SCRIPT}</script></svg>"
)
XSLT = (
    '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
    f'<xsl:template match="/"><html><body><script>{SCRIPT}</script></body></html>'
    "</xsl:template></xsl:stylesheet>"
)
STYLED = f'<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="#s"?>{XSLT}'.replace(
    "<xsl:stylesheet ", '<xsl:stylesheet id="s" '
)
MATHML = (
    '<math xmlns="http://www.w3.org/1998/Math/MathML"><mtext>'
    f'<script xmlns="http://www.w3.org/1999/xhtml">{SCRIPT}</script></mtext></math>'
)
PDF = (
    "%PDF-1.7\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript"
    "/JS(app.launchURL\\('@BEACON@'\\))>>>>endobj\n"
    "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/AA<</O<</S/URI/URI(@BEACON@)>>>>>>endobj\n"
    "trailer<</Root 1 0 R>>\n%%EOF"
)
MIXED = f"--b\r\nContent-Type: text/html\r\n\r\n{HTML}\r\n--b--\r\n"
MAIL = f"From: a@b\r\nSubject: c\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n{HTML}"
MHTML = (
    "From: <Saved by Blink>\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/related; type="text/html"; boundary="b"\r\n\r\n'
    f"--b\r\nContent-Type: text/html\r\nContent-Location: http://x/\r\n\r\n{HTML}\r\n--b--\r\n"
)
REFRESH = (
    '<!doctype html><meta http-equiv=refresh content="0;url=@BEACON@">'
    f'<iframe src="data:text/html,<script>{SCRIPT}</script>"></iframe>'
)
FORM = (
    "<!doctype html><base href=@BEACON@><form action=@BEACON@><input name=a autofocus "
    f'onfocus="{SCRIPT}"></form><script>document.forms[0].submit()</script>'
)
STYLE = "@import '@BEACON@';*{background:url('@BEACON@')}"
POLYGLOT = f"GIF89a/*{HTML}*/=1;{SCRIPT}"
MANIFEST = '{"name":"x","start_url":"@BEACON@","icons":[{"src":"@BEACON@","sizes":"9x9"}]}'
# As a worker it has no document: fetch alone tells that it ran.
WORKER = "self.addEventListener('fetch',function(){});fetch('@BEACON@',{mode:'no-cors'});"
PNG = "\x89PNG\r\n\x1a\n"
JPEG = "\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"


@dataclass(frozen=True)
class Active:
    """A file with a script in it: how it is named, what it is declared as, what its bytes are."""

    case: str
    name: str
    media_type: str | None
    content: str
    charset: str = "utf-8"

    def build(self, beacon: str) -> bytes:
        """Return the bytes, which ask for an address of their own below `beacon` once they run."""
        content = self.content.replace("@BEACON@", f"{beacon}/{self.case}")
        return content.replace("@CASE@", self.case).encode(self.charset)


PAYLOADS = [
    Active("html", "page.html", "text/html", HTML),
    Active("html-shouting", "page.html", "TEXT/HTML; charset=utf-7", HTML),
    Active("html-utf-7", "page.html", "text/html;charset=UTF-7", "+ADw-script+AD4-" + HTML),
    Active("html-after-blanks", "page.html", " \t text/html", HTML),
    Active("html-quoted-charset", "page.html", 'text/html; charset="utf-8"; x="a;b"', HTML),
    Active("html-by-its-extension", "page.html", None, HTML),
    Active("html-by-its-extension-alone", "page.htm", "application/octet-stream", HTML),
    Active("xhtml", "page.xhtml", "application/xhtml+xml", XHTML),
    Active("html-as-plain-text", "page.html", "text/plain", HTML),
    Active("html-as-png", "page.png", "image/png", HTML),
    Active("html-after-png", "page.png", "image/png", PNG + HTML, "latin-1"),
    Active("html-as-gif", "page.gif", "image/gif", POLYGLOT),
    Active("html-after-jpeg", "page.jpg", "image/jpeg", JPEG + HTML, "latin-1"),
    Active("html-as-octets", "page", "application/octet-stream", HTML),
    Active("html-of-no-type", "page", None, HTML),
    Active("html-of-unknown-type", "page.html", "foo/bar", HTML),
    Active("html-as-anything", "page.html", "*/*", HTML),
    Active("html-of-no-subtype", "page.html", "html", HTML),
    Active("html-or-png", "page.html", "text/html;image/png", HTML),
    Active("html-and-png", "page.png", "image/png, text/html", HTML),
    Active("png-with-html-for-a-parameter", "page.png", 'image/png; a="text/html"', HTML),
    Active("html-in-utf-16", "page.html", "text/html", HTML, "utf-16"),
    Active("html-in-utf-16-as-text", "page.txt", "text/plain; charset=utf-16", HTML, "utf-16"),
    Active("html-as-video", "page.mp4", "video/mp4", HTML),
    Active("html-as-audio", "page.mp3", "audio/mpeg", HTML),
    Active("html-as-subtitles", "page.vtt", "text/vtt", "WEBVTT\n\n" + HTML),
    Active("html-as-flash", "page.swf", "application/x-shockwave-flash", "FWS\x09" + HTML),
    Active("html-as-json", "page.json", "application/json", '{"a":"' + HTML.replace('"', "'")),
    Active("html-as-markdown", "page.md", "text/markdown", HTML),
    Active("html-as-event-stream", "page.html", "text/event-stream", "data: x\n\n" + HTML),
    Active("svg", "image.svg", "image/svg+xml", SVG),
    Active("svg-shouting", "image.svg", "IMAGE/SVG+XML; charset=utf-8", SVG),
    Active("svg-by-its-extension", "image.svg", None, SVG),
    Active("svg-as-png", "image.png", "image/png", SVG),
    Active("svg-as-xml", "image.xml", "application/xml", SVG),
    Active("xhtml-as-xml", "page.xml", "text/xml", XHTML),
    Active("xhtml-as-some-xml", "page.xml", "application/foo+xml", XHTML),
    Active("xml-with-its-stylesheet", "page.xml", "text/xml", STYLED),
    Active("xslt", "style.xsl", "text/xsl", XHTML),
    Active("xslt-of-its-own-type", "style.xslt", "application/xslt+xml", STYLED),
    Active("mathml", "formula.mml", "application/mathml+xml", MATHML),
    Active("rss", "feed.rss", "application/rss+xml", XHTML),
    Active("pdf", "paper.pdf", "application/pdf", PDF),
    Active("mixed-replace", "page.html", "multipart/x-mixed-replace; boundary=b", MIXED),
    Active("byteranges", "page.html", "multipart/byteranges; boundary=b", MIXED),
    Active("mail", "mail.eml", "message/rfc822", MAIL),
    Active("mhtml", "page.mhtml", "multipart/related", MHTML),
    Active("mhtml-as-mail", "page.mht", "message/rfc822", MHTML),
    Active("refresh", "page.html", "text/html", REFRESH),
    Active("form", "page.html", "text/html", FORM),
    Active("style", "style.css", "text/css", STYLE),
    Active("script", "script.js", "application/javascript", SCRIPT),
    Active("script-as-text", "script.js", "text/plain", SCRIPT),
    Active("script-as-png", "script.js", "image/png", SCRIPT),
    Active("script-as-json", "script.json", "application/json", SCRIPT),
    Active("script-of-no-type", "script", None, SCRIPT),
    Active("worker", "worker.js", "text/javascript", WORKER),
    Active("manifest", "app.webmanifest", "application/manifest+json", MANIFEST),
]

REFUSED = {"html-of-no-subtype", "html-or-png", "html-and-png"}
"""Whose Content-Type is none (RFC 9110 §8.3): the service does not take them."""

RUNS = {
    "html", "html-shouting", "html-utf-7", "html-after-blanks", "html-quoted-charset",
    "html-by-its-extension", "html-of-no-type", "html-as-anything", "html-or-png", "html-in-utf-16",
    "xhtml", "svg", "svg-shouting", "svg-as-xml", "xhtml-as-xml", "xslt", "refresh", "form",
}  # fmt: skip
"""What a server without our headers lets run when its link is opened: the detector's proof."""

SHOWN = {
    "html-as-plain-text", "html-as-png", "html-after-png", "html-as-gif", "html-after-jpeg",
    "png-with-html-for-a-parameter", "html-in-utf-16-as-text", "html-as-video", "html-as-audio",
    "svg-as-png", "script-as-text", "script-as-png",
}  # fmt: skip
"""What is shown, and not saved, where `?disposition=inline` asks for it."""

INCLUDED_RUNS = {
    "script", "script-as-text", "script-as-json", "script-of-no-type", "worker", "style",
}  # fmt: skip
"""What a page can include as a script or style from a server without our headers."""
