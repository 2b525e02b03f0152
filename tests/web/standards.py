"""What the standards say of our routes, a row each, with what the service answers to it.

`python -m tests.web.standards > docs/conformance.md` writes the page.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One request to a file of ten bytes, and its answer; a header of None must be absent.

    In values, {etag}, {date}, {before} and {after} stand for the file's own.
    """

    source: str
    says: str
    line: str = "GET {path}"
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    status: int = 200
    answer: dict[str, str | None] = field(default_factory=dict)
    content: str | None = None


def ranged(says: str, value: str, content: str, span: str | None) -> Row:
    """Ask for a range: a 206 of `span`, or the whole where that is None."""
    answer: dict[str, str | None] = {"Content-Range": span and f"bytes {span}/10"}
    return Row(
        "RFC 9110 §14", says, headers={"Range": value}, status=206 if span else 200,
        answer=answer, content=content,
    )  # fmt: skip


def unsatisfiable(says: str, value: str) -> Row:
    return Row(
        "RFC 9110 §15.5.17", says, headers={"Range": value}, status=416,
        answer={"Content-Range": "bytes */10", "Content-Type": "application/problem+json"},
    )  # fmt: skip


def conditional(source: str, says: str, headers: dict[str, str], status: int) -> Row:
    return Row(f"RFC 9110 {source}", says, headers=headers, status=status)


ALL = "0123456789"
GONE = "GET /files/0c5b4f0e-7b8e-4a55-9d6c-3f1d2a6b7c8d/"
FORM = "multipart/form-data; boundary=b"
PART = '--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n'
PROBLEM: dict[str, str | None] = {"Content-Type": "application/problem+json", "X-Request-ID": ".+"}

RANGES = [
    ranged("the first byte", "bytes=0-0", "0", "0-0"),
    ranged("a span within", "bytes=2-5", "2345", "2-5"),
    ranged("from a byte to the end", "bytes=7-", "789", "7-9"),
    ranged("the last bytes", "bytes=-3", "789", "7-9"),
    ranged("more last bytes than there are", "bytes=-99", ALL, "0-9"),
    ranged("an end beyond the file is clamped", "bytes=5-99", "56789", "5-9"),
    ranged("the unit's case does not matter", "BYTES=0-1", "01", "0-1"),
    ranged("blanks around a range do not matter", "bytes= 0-1 ", "01", "0-1"),
    ranged("an empty element does not count", "bytes=,0-1,", "01", "0-1"),
    ranged("overlapping ranges become one", "bytes=0-3,2-5", "012345", "0-5"),
    ranged("adjoining ranges become one", "bytes=0-1,2-3", "0123", "0-3"),
    ranged("of several the satisfiable one is sent", "bytes=99-,0-1", "01", "0-1"),
    ranged("an unknown unit is ignored", "items=0-1", ALL, None),
    ranged("a range backwards is malformed, and ignored", "bytes=5-2", ALL, None),
    ranged("letters are malformed", "bytes=a-b", ALL, None),
    ranged("a lone dash is malformed", "bytes=-", ALL, None),
    ranged("a lone number is malformed", "bytes=5", ALL, None),
    ranged("no range at all is malformed", "bytes=", ALL, None),
    ranged("one malformed range spoils the set", "bytes=0-1,x", ALL, None),
    ranged("two dashes are malformed", "bytes=--3", ALL, None),
    ranged("a sign is malformed", "bytes=+1-2", ALL, None),
    ranged("too many ranges are ignored", "bytes=" + ",".join(["0-0"] * 33), ALL, None),
    unsatisfiable("a range behind the end", "bytes=10-"),
    unsatisfiable("a span behind the end", "bytes=10-20"),
    unsatisfiable("no last bytes", "bytes=-0"),
    unsatisfiable("several ranges behind the end", "bytes=10-11,20-"),
    Row("RFC 9110 §14.6", "several ranges are multipart/byteranges", headers={"Range": "bytes=0-1,5-6"},
        status=206, answer={"Content-Type": "multipart/byteranges; boundary=[0-9a-f]+", "Content-Range": None}),
    Row("RFC 9110 §14.2", "Range is defined for GET alone", "HEAD {path}", {"Range": "bytes=0-1"},
        answer={"Content-Length": "10", "Content-Range": None}),
    Row("RFC 9110 §14.3", "ranges are offered", answer={"Accept-Ranges": "bytes"}),
    Row("RFC 9110 §14.1.2", "of an empty file, a suffix is all of it", "GET {empty}", {"Range": "bytes=-5"},
        answer={"Content-Length": "0"}, content=""),
    Row("RFC 9110 §15.5.17", "of an empty file, no byte can be had", "GET {empty}", {"Range": "bytes=0-"},
        status=416, answer={"Content-Range": r"bytes \*/0"}),
    Row("RFC 9530 §3.1", "a part carries the digest of the whole", headers={"Range": "bytes=0-1"}, status=206,
        answer={"Repr-Digest": "{digest}", "Content-Length": "2", "ETag": "{etag}"}),
]  # fmt: skip

CONDITIONS = [
    conditional("§13.1.1", "If-Match of this file", {"If-Match": "{etag}"}, 200),
    conditional("§13.1.1", "If-Match of another file", {"If-Match": '"x"'}, 412),
    conditional("§13.1.1", "If-Match of any file", {"If-Match": "*"}, 200),
    conditional("§13.1.1", "If-Match of a list", {"If-Match": '"x", {etag}'}, 200),
    conditional("§13.1.1", "If-Match is strong: a weak tag never matches", {"If-Match": "W/{etag}"}, 412),
    conditional("§13.1.2", "If-None-Match of this file", {"If-None-Match": "{etag}"}, 304),
    conditional("§13.1.2", "If-None-Match is weak: a weak tag matches", {"If-None-Match": "W/{etag}"}, 304),
    conditional("§13.1.2", "If-None-Match of another file", {"If-None-Match": '"x"'}, 200),
    conditional("§13.1.2", "If-None-Match of a list", {"If-None-Match": '"x", "y", {etag}'}, 304),
    conditional("§13.1.2", "If-None-Match of any file", {"If-None-Match": "*"}, 304),
    conditional("§13.1.3", "not modified since then", {"If-Modified-Since": "{date}"}, 304),
    conditional("§13.1.3", "not modified since later", {"If-Modified-Since": "{after}"}, 304),
    conditional("§13.1.3", "modified since before", {"If-Modified-Since": "{before}"}, 200),
    conditional("§13.1.3", "what is no date is ignored", {"If-Modified-Since": "yesterday"}, 200),
    conditional("§13.1.4", "unmodified since then", {"If-Unmodified-Since": "{date}"}, 200),
    conditional("§13.1.4", "not unmodified since before", {"If-Unmodified-Since": "{before}"}, 412),
    conditional("§13.1.4", "what is no date is ignored", {"If-Unmodified-Since": "0"}, 200),
    conditional("§13.2.2", "If-Match goes before If-Unmodified-Since",
                {"If-Match": "{etag}", "If-Unmodified-Since": "{before}"}, 200),
    conditional("§13.2.2", "If-None-Match goes before If-Modified-Since",
                {"If-None-Match": '"x"', "If-Modified-Since": "{date}"}, 200),
    conditional("§13.2.2", "412 goes before 304", {"If-Match": '"x"', "If-None-Match": "{etag}"}, 412),
    conditional("§13.2.2", "304 goes before 206", {"If-None-Match": "{etag}", "Range": "bytes=0-1"}, 304),
    conditional("§13.2.2", "412 goes before 416", {"If-Match": '"x"', "Range": "bytes=99-"}, 412),
    conditional("§13.1.5", "If-Range of this file", {"If-Range": "{etag}", "Range": "bytes=0-1"}, 206),
    conditional("§13.1.5", "If-Range of another file", {"If-Range": '"x"', "Range": "bytes=0-1"}, 200),
    conditional("§13.1.5", "If-Range is strong", {"If-Range": "W/{etag}", "Range": "bytes=0-1"}, 200),
    conditional("§13.1.5", "If-Range of the very date", {"If-Range": "{date}", "Range": "bytes=0-1"}, 206),
    conditional("§13.1.5", "If-Range of an earlier date", {"If-Range": "{before}", "Range": "bytes=0-1"}, 200),
    conditional("§13.1.5", "If-Range of a later date", {"If-Range": "{after}", "Range": "bytes=0-1"}, 200),
    conditional("§13.1.5", "a stale If-Range spares the 416", {"If-Range": '"x"', "Range": "bytes=99-"}, 200),
    conditional("§13.1.5", "If-Range without Range is ignored", {"If-Range": '"x"'}, 200),
    conditional("§5.6.7", "a date of the second form", {"If-Modified-Since": "Friday, 01-Jan-99 00:00:00 GMT"}, 200),
    conditional("§5.6.7", "a date of the third form", {"If-Modified-Since": "Fri Jan  1 00:00:00 1999"}, 200),
    Row("RFC 9110 §15.4.5", "a 304 has what a cache needs, and no body", headers={"If-None-Match": "{etag}"},
        status=304, answer={"ETag": "{etag}", "Cache-Control": ".*immutable.*", "Date": ".+", "Content-Type": None}),
    Row("RFC 9110 §9.3.2", "HEAD has a 304, too", "HEAD {path}", {"If-None-Match": "{etag}"}, status=304),
    Row("RFC 9110 §9.3.2", "HEAD has a 412, too", "HEAD {path}", {"If-Match": '"x"'}, status=412),
]  # fmt: skip

REPRESENTATION = [
    Row("RFC 9110 §8.8.3", "the entity tag is strong", answer={"ETag": '"[0-9a-f]{64}"'}, content=ALL),
    Row("RFC 9110 §8.8.2", "when it was uploaded", answer={"Last-Modified": "{date}"}),
    Row("RFC 9530 §3", "the digest of the whole", answer={"Repr-Digest": "{digest}"}),
    Row("RFC 9530 §4", "an unknown wanted digest is ignored", headers={"Want-Repr-Digest": "md5=10"},
        answer={"Repr-Digest": "{digest}"}),
    Row("RFC 8246", "the bytes of an id never change", answer={"Cache-Control": ".*immutable.*"}),
    Row("RFC 6266 §4.3", "both forms of the name",
        answer={"Content-Disposition": "attachment; filename=\"a.txt\"; filename\\*=UTF-8''a.txt"}),
    Row("RFC 6266 §4.2", "inline where it cannot run script", "GET {path}?disposition=inline",
        answer={"Content-Disposition": "inline; .*"}),
    Row("Fetch", "what is declared is what it is", answer={"X-Content-Type-Options": "nosniff"}),
    Row("CSP 3", "nothing runs in our origin", answer={"Content-Security-Policy": "sandbox; .*"}),
    Row("Fetch", "other sites do not embed it", answer={"Cross-Origin-Resource-Policy": "same-site"}),
    Row("RFC 9110 §9.3.2", "HEAD has the headers of GET", "HEAD {path}",
        answer={"Content-Length": "10", "ETag": "{etag}", "Repr-Digest": "{digest}"}),
    Row("RFC 9110 §10.2.4", "Server tells no version", answer={"Server": "file-service"}),
    Row("RFC 9110 §6.6.1", "an answer has a date", answer={"Date": ".+ GMT"}),
    Row("contract", "a request id is made", answer={"X-Request-ID": "[0-9a-f]{32}"}),
    Row("contract", "a sane request id is taken over", headers={"X-Request-ID": "abc-1"},
        answer={"X-Request-ID": "abc-1"}),
    Row("contract", "a trailing slash is optional", "GET {bare}", content=ALL),
]  # fmt: skip

UPLOADS = [
    Row("RFC 9110 §15.3.2", "a new file and where it is", "POST /files/", {"Content-Length": "1"}, "x", 201,
        {"Location": "/files/[0-9a-f-]{36}/", "ETag": '"[0-9a-f]{64}"', "Repr-Digest": "sha-256=:.*:", "Vary": "Accept"}),
    Row("RFC 9112 §7.1", "a chunked body", "POST /files/", {"Transfer-Encoding": "chunked"}, "1\r\nx\r\n0\r\n\r\n", 201),
    Row("RFC 9112 §7.1.1", "chunk extensions are ignored", "POST /files/", {"Transfer-Encoding": "chunked"},
        "1;a=b\r\nx\r\n0\r\n\r\n", 201),
    Row("RFC 9112 §7.1.2", "trailers are read over", "POST /files/", {"Transfer-Encoding": "chunked"},
        "1\r\nx\r\n0\r\nA: b\r\n\r\n", 201),
    Row("RFC 9110 §8.6", "no body is an empty file", "POST /files/", {"Content-Length": "0"}, status=201),
    Row("RFC 9110 §9.3.4", "PUT names the file", "PUT /files/b.txt", {"Content-Length": "1"}, "x", 201),
    Row("RFC 9110 §14.5", "PUT of a part is not understood", "PUT /files/b.txt",
        {"Content-Length": "1", "Content-Range": "bytes 5-5/10"}, "x", 400, PROBLEM),
    Row("RFC 9110 §12.5.1", "JSON where it is preferred", "POST /files/",
        {"Content-Length": "0", "Accept": "application/json"}, "", 201, {"Content-Type": "application/json"}),
    Row("RFC 9110 §12.5.1", "text where it is not", "POST /files/",
        {"Content-Length": "0", "Accept": "application/json;q=0.1, text/plain"}, "", 201, {"Content-Type": "text/plain.*"}),
    Row("RFC 8187 §3.2", "a name in UTF-8", "POST /files/",
        {"Content-Length": "0", "Content-Disposition": "attachment; filename*=UTF-8''%D0%BE"}, "", 201),
    Row("RFC 8187 §3.2.1", "a name that is not percent-encoded", "POST /files/",
        {"Content-Length": "0", "Content-Disposition": "attachment; filename*=UTF-8''%D"}, "", 400, PROBLEM),
    Row("RFC 6266 §4.1", "a parameter twice", "POST /files/",
        {"Content-Length": "0", "Content-Disposition": "attachment; filename=a; filename=b"}, "", 400, PROBLEM),
    Row("RFC 9110 §8.3", "a media type that is none", "POST /files/",
        {"Content-Length": "0", "Content-Type": "none"}, "", 400, PROBLEM),
    Row("RFC 9110 §15.5.16", "a content coding is not undone", "POST /files/",
        {"Content-Length": "1", "Content-Encoding": "gzip"}, "x", 415, {**PROBLEM, "Accept-Encoding": "identity"}),
    Row("RFC 9530 §2", "a digest that is right", "POST /files/",
        {"Content-Length": "10", "Content-Digest": "{digest}"}, ALL, 201),
    Row("RFC 9530 §2", "a digest that is wrong", "POST /files/",
        {"Content-Length": "1", "Content-Digest": "{digest}"}, "x", 400, PROBLEM),
    Row("RFC 9530 §3", "a digest that cannot be verified", "POST /files/",
        {"Content-Length": "1", "Repr-Digest": "md5=:AAAA:"}, "x", 400, PROBLEM),
    Row("RFC 7578 §4.1", "a form", "POST /files/", {"Content-Type": FORM, "Content-Length": str(len(PART) + 7)},
        PART + "--b--\r\n", 201),
    Row("RFC 2046 §5.1.1", "a form without its last boundary", "POST /files/",
        {"Content-Type": FORM, "Content-Length": str(len(PART))}, PART, 400, PROBLEM),
    Row("RFC 2046 §5.1.1", "a form without a boundary", "POST /files/",
        {"Content-Type": "multipart/form-data", "Content-Length": "0"}, "", 400, PROBLEM),
    Row("RFC 9110 §10.1.1", "another expectation", "POST /files/", {"Content-Length": "0", "Expect": "more"}, "", 417, PROBLEM),
]  # fmt: skip

ERRORS = [
    Row("RFC 9457 §3", "no file of this id", GONE, status=404, answer=PROBLEM),
    Row("RFC 9457 §3", "an id that is none", "GET /files/x/", status=404, answer=PROBLEM),
    Row("RFC 9457 §3", "an id in capitals", GONE.upper().replace("FILES", "files"), status=404, answer=PROBLEM),
    Row("RFC 9110 §9.3.2", "HEAD of no file", GONE.replace("GET", "HEAD"), status=404, answer=PROBLEM),
    Row("RFC 9110 §9.3.5", "DELETE of no file", GONE.replace("GET", "DELETE"), status=404, answer=PROBLEM),
    Row("RFC 9457 §3", "no such address", "GET /nothing", status=404, answer=PROBLEM),
    Row("RFC 9110 §15.5.6", "another method", "PATCH {path}", status=405, answer={**PROBLEM, "Allow": "DELETE, GET, HEAD, PUT"}),
    Row("RFC 9110 §15.5.6", "a list of files is not given", "GET /files/", status=405, answer={**PROBLEM, "Allow": "OPTIONS, POST"}),
    Row("RFC 9110 §12.5.1", "a browser gets a page", "GET /nothing", {"Accept": "text/html"}, status=404,
        answer={"Content-Type": "text/html.*", "Vary": "Accept"}),
    Row("RFC 9111 §5.2", "an error is not kept", "GET /nothing", status=404, answer={"Cache-Control": "no-store"}),
    Row("RFC 9112 §6.1", "a transfer coding before chunked", "POST /files/",
        {"Transfer-Encoding": "gzip, chunked"}, "0\r\n\r\n", 501, {**PROBLEM, "Connection": "close"}),
    Row("RFC 9112 §6.1", "chunks in HTTP/1.0", "POST /files/ HTTP/1.0",
        {"Transfer-Encoding": "chunked", "Connection": "keep-alive"}, "1\r\nx\r\n0\r\n\r\n", 501,
        {**PROBLEM, "Connection": None}),
    Row("RFC 9112 §3.2", "a Host that is none", "GET {path}", {"Host": "a b"}, status=400, answer=PROBLEM),
    Row("RFC 9112 §3.2", "a Host that is empty", "GET {path}", {"Host": ""}, content=ALL),
    Row("RFC 9112 §6.3", "a length and chunks", "POST /files/",
        {"Content-Length": "5", "Transfer-Encoding": "chunked"}, "0\r\n\r\n", 400, PROBLEM),
    Row("RFC 9112 §6.3", "a length that is no number", "POST /files/", {"Content-Length": "+5"}, "hello", 400, PROBLEM),
    Row("RFC 9112 §7.1", "a chunk size that is no number", "POST /files/", {"Transfer-Encoding": "chunked"},
        "zz\r\nhello\r\n", 400, PROBLEM),
    Row("RFC 9112 §5.1", "a blank before the colon", "GET {path}", {"X ": "y"}, status=400, answer=PROBLEM),
    Row("RFC 9112 §2.2", "a line that is no request", "GARBAGE", status=400, answer=PROBLEM),
    Row("RFC 9110 §15.6.6", "HTTP/2 without a preface", "GET {path} HTTP/2.0", status=505, answer=PROBLEM),
]  # fmt: skip

ROWS = [*RANGES, *CONDITIONS, *REPRESENTATION, *UPLOADS, *ERRORS]


def render(rows: list[Row]) -> str:
    """Write the page that docs/api.md links to."""
    lines = [
        "# What the standards say, and what is answered",
        "",
        f"{len(rows)} requests over raw sockets, asked of a file of ten bytes in every test run, on both",
        "databases. Written by `python -m tests.web.standards`.",
        "",
        "| source | case | request | answer |",
        "|---|---|---|---|",
    ]
    for row in rows:
        sent = " ".join(f"`{name}: {_shorten(value)}`" for name, value in row.headers.items())
        seen = " ".join(
            f"`{name}: {_shorten(value)}`" for name, value in row.answer.items() if value
        )
        line = f"`{row.line}` {sent}".strip().replace("|", "\\|")
        lines.append(
            f"| {row.source} | {row.says} | {line} | **{row.status}** {seen} |".replace("  ", " ")
        )
    return "\n".join(lines) + "\n"


def _shorten(value: str | None) -> str:
    text = (value or "").replace("|", "\\|")
    return text if len(text) <= 60 else text[:57] + "..."


if __name__ == "__main__":
    import sys

    sys.stdout.write(render(ROWS))
