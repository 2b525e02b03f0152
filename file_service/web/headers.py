"""Read and write every header we use: pure functions on strings, Malformed for bad ones."""

import base64
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import quote, unquote_to_bytes

from multidict import MultiMapping

from file_service.errors import DigestInvalid, DigestUnsupported, Malformed

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # RFC 9110 §5.6.2
_QUOTED = r'"(?:[^"\\]|\\.)*"'  # RFC 9110 §5.6.4
_PARAMETER = re.compile(rf"\s*;\s*(?:({TOKEN})\s*=\s*({TOKEN}|{_QUOTED}))?", re.DOTALL)
_MEDIA_TYPE = re.compile(rf"({TOKEN}/{TOKEN})\s*(;.*)?", re.DOTALL)
_DISPOSITION = re.compile(rf"({TOKEN})\s*(;.*)?", re.DOTALL)
_EXT_VALUE = re.compile(r"([A-Za-z0-9!#$%&+^_`{}~-]+)'([^']*)'(.*)", re.DOTALL)  # RFC 8187 §3.2
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

# RFC 8187 §3.2.1: attr-char, less the letters and digits that quote() never encodes.
_ATTR_CHARS = "!#$&+-.^_`|~"

_LONGEST_MEDIA_TYPE = 255
_LONGEST_ACCEPT = 1024
_LONGEST_DIGESTS = 1024
_LONGEST_SAVED_NAME = 255  # bytes: what a file on most systems may be called
_LONGEST_EXTENSION = 32

DIGEST_SIZES = {"sha-256": 32, "sha-512": 64}  # bytes

# Members of a structured dictionary (RFC 9651 §3.2), whose parameters mean nothing to us.
# No blank may belong to two parts of it: a backtracking match of such would take for ever.
_IGNORED = r"(?:[ \t]*;[ \t]*[a-z*][a-z0-9_.*-]*(?:=[^,; \t]*)?)*"
_DIGEST = re.compile(rf"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):{_IGNORED}")
_WANTED = re.compile(rf"([a-z*][a-z0-9_.*-]*)=([0-9]|10){_IGNORED}")

# Bidirectional controls and what nobody sees (Default_Ignorable_Code_Point, separators of lines,
# annotations) let a name look like another one. Variation selectors stay: they choose a glyph.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
)
# The joiners of emoji sequences and of Persian are kept where they join: between characters beyond
# ASCII. A run of them goes as a whole, or each would excuse the next.
_STRAY_JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]++|[\u200c\u200d]++(?![^\x00-\x7f])")
# What nobody sees at the beginning of a name or at its end, where Windows drops dots besides.
_UNSEEN_EDGES = (
    " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"
    "\u205f\u3000\u200c\u200d"
)


@dataclass(frozen=True, slots=True)
class Disposition:
    """A parsed Content-Disposition: its type and the names of its parameters in lower case."""

    type: str
    parameters: dict[str, str]

    @property
    def filename(self) -> str | None:
        """The file name, `filename*` before `filename` (RFC 6266 §4.3)."""
        extended = self.parameters.get("filename*")
        return self.parameters.get("filename") if extended is None else parse_ext_value(extended)


def combine(headers: MultiMapping[str], name: str) -> str | None:
    """Return a list's header of one line or several as one value (RFC 9110 §5.3), or None."""
    lines = headers.getall(name, None)
    return None if lines is None else ", ".join(lines)


def parse_disposition(value: str) -> Disposition:
    """Parse a request's Content-Disposition by RFC 6266 §4.1."""
    return _parse_disposition(value, _unquote)


def parse_part_disposition(value: str) -> Disposition:
    """Parse a form part's Content-Disposition as browsers and curl write it (RFC 7578 §4.2)."""
    return _parse_disposition(value, _unquote_part)


def _parse_disposition(value: str, unquote: Callable[[str], str]) -> Disposition:
    match = _DISPOSITION.fullmatch(repair(value).strip())
    if match is None:
        raise Malformed("The Content-Disposition has no disposition type.")
    return Disposition(match[1].lower(), _parse_parameters(match[2] or "", unquote))


def repair(value: str) -> str:
    """Return a header's text: UTF-8 where its bytes are that, else ISO-8859-1, as of old.

    aiohttp decodes header bytes as UTF-8 and keeps what is not as lone surrogates.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def parse_ext_value(value: str) -> str:
    """Decode `charset'language'percent-encoded` (RFC 8187 §3.2)."""
    match = _EXT_VALUE.fullmatch(value)
    if match is None or _BAD_PERCENT.search(match[3]) or not match[3].isascii():
        raise Malformed("The extended parameter is not charset'language'percent-encoded text.")
    charset = match[1].lower()
    if charset not in {"utf-8", "iso-8859-1"}:
        raise Malformed("The extended parameter is neither UTF-8 nor ISO-8859-1.")
    try:
        return unquote_to_bytes(match[3]).decode(charset)
    except UnicodeDecodeError:
        raise Malformed(f"The extended parameter is not valid {charset.upper()}.") from None


def parse_media_type(value: str | None) -> tuple[str, dict[str, str]]:
    """Return the media type in lower case, '' where there is none, and its parameters."""
    if value is None or not value.strip():
        return "", {}
    match = _MEDIA_TYPE.fullmatch(value.strip())
    if match is None or len(value) > _LONGEST_MEDIA_TYPE or not value.isprintable():
        raise Malformed("The Content-Type is not a media type.")
    if not value.isascii():
        raise Malformed("The Content-Type has characters outside ASCII.")
    return match[1].lower(), _parse_parameters(match[2] or "", _unquote)


def is_json_preferred(accept: str | None) -> bool:
    """Whether an Accept header likes application/json better than text/plain (RFC 9110 §12.5.1).

    Where both weigh the same, the more specific range and then the earlier one decides.
    """
    ranges = _parse_accept(accept)
    json = max((rank for name, rank in ranges if name == "application/json"), default=None)
    json = json or max((r for n, r in ranges if n in {"application/*", "*/*"}), default=None)
    text = max((rank for name, rank in ranges if name == "text/plain"), default=None)
    text = text or max((r for n, r in ranges if n in {"text/*", "*/*"}), default=None)
    return json is not None and json[0] > 0 and (text is None or json > text)


def is_html_preferred(accept: str | None) -> bool:
    """Whether an Accept header asks for HTML by name, as a browser that opened a link does."""
    ranges = _parse_accept(accept)
    weights = {name: rank[0] for name, rank in reversed(ranges)}
    html = weights.get("text/html", 0.0)
    json = ("application/problem+json", "application/json")
    return html > 0 and html >= max(weights.get(name, 0.0) for name in json)


def _parse_accept(accept: str | None) -> list[tuple[str, tuple[float, int, int]]]:
    if accept is None or len(accept) > _LONGEST_ACCEPT:
        return []
    return [_parse_range(each, at) for at, each in enumerate(accept.split(","))]


def _parse_range(text: str, position: int) -> tuple[str, tuple[float, int, int]]:
    name, _, parameters = text.partition(";")
    name = name.strip().lower()
    match = re.search(
        r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", parameters, re.IGNORECASE
    )
    weight = float(match[1]) if match else 1.0
    return name, (weight, -name.count("*"), -position)


def _parse_parameters(text: str, unquote: Callable[[str], str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None or match.end() == position:
            if text[position:].strip():
                raise Malformed("A header has a malformed parameter.")
            break
        position = match.end()
        if match[1] is None:
            continue
        name = match[1].lower()
        if name in parameters:
            raise Malformed(f"A header has the parameter {name!r} twice.")
        parameters[name] = unquote(match[2])
    return parameters


def _unquote(value: str) -> str:
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value


def _unquote_part(value: str) -> str:
    r"""Undo what form senders do: browsers write `%22`, `%0D`, `%0A`; older curl writes `\"`.

    Any other backslash or percent sign is meant as it stands (WHATWG HTML, multipart/form-data).
    """
    if not value.startswith('"'):
        return value
    text = re.sub(r'\\(["\\])', r"\1", value[1:-1])
    return re.sub(r"%(22|0D|0A)", lambda match: chr(int(match[1], 16)), text)


def format_disposition(name: str, *, disposition: str = "attachment") -> str:
    """Write a Content-Disposition with both forms of the name (RFC 6266 §4.3, appendix D)."""
    name = clean_name(name)
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    # After the decomposition: it turns a full-width solidus into a real one.
    plain = re.sub(r'[^ -~]|["\\%/]', "_", plain)
    plain = _shorten(_strip(plain))  # it decomposes into blanks and dots, and into more characters
    plain = plain if plain.strip("._ ") else "file"
    extended = quote(name, safe=_ATTR_CHARS)
    return f"{disposition}; filename=\"{plain}\"; filename*=UTF-8''{extended}"


def clean_name(name: str) -> str:
    """Return the name to save a file under: nothing that misleads a reader, at most 255 bytes."""
    return _tidy(_shorten(_tidy(unicodedata.normalize("NFC", name)))) or "file"


def _tidy(name: str) -> str:
    name = _STRAY_JOINERS.sub("", _INVISIBLE.sub("", name))
    return _strip(unicodedata.normalize("NFC", name))  # what was apart may compose now


def _strip(name: str) -> str:
    return name.rstrip("." + _UNSEEN_EDGES).lstrip(_UNSEEN_EDGES)


def _shorten(name: str) -> str:
    """Cut to what a file on most systems may be called, and keep the extension."""
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension.encode()) > _LONGEST_EXTENSION:
        stem, dot, extension = name, "", ""
    room = _LONGEST_SAVED_NAME - len((dot + extension).encode())
    return _strip(stem.encode()[:room].decode(errors="ignore") + dot + extension)


def parse_digests(value: str | None) -> dict[str, bytes]:
    """Return the digests of a Content-Digest or Repr-Digest (RFC 9530 §2, §3) that we can verify.

    DigestInvalid for what is no dictionary of byte sequences, DigestUnsupported where it names no
    algorithm that we know.
    """
    if value is None or not value.strip():
        return {}  # RFC 9651 §3.2: an empty dictionary is no header at all
    if len(value) > _LONGEST_DIGESTS:
        raise DigestInvalid(f"A digest header may have at most {_LONGEST_DIGESTS} characters.")
    members = [_DIGEST.fullmatch(member.strip()) for member in value.split(",")]
    known = {}
    for member in members:
        if member is None:
            raise DigestInvalid("A digest header is a list of algorithm=:base64: pairs.")
        if member[1] in DIGEST_SIZES:
            known[member[1]] = _decode_digest(member[1], member[2])
    if not known:
        raise DigestUnsupported(f"The service verifies {' and '.join(DIGEST_SIZES)}.")
    return known


def _decode_digest(algorithm: str, text: str) -> bytes:
    try:
        # RFC 9651 §4.2.7: without its padding it is no less right.
        digest = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise DigestInvalid(f"The {algorithm} is not base64.") from None
    if len(digest) != DIGEST_SIZES[algorithm]:
        raise DigestInvalid(f"A {algorithm} has {DIGEST_SIZES[algorithm]} bytes.")
    return digest


def parse_wanted_digests(value: str | None) -> list[str]:
    """Return the algorithms of a Want-Repr-Digest that we know, the most wanted first (§4)."""
    wanted = []
    for member in (value or "")[:_LONGEST_DIGESTS].split(","):
        match = _WANTED.fullmatch(member.strip())
        if match is not None and match[1] in DIGEST_SIZES and int(match[2]) > 0:
            wanted.append((int(match[2]), match[1]))
    return [name for _, name in sorted(wanted, key=lambda each: -each[0])]


def format_digests(digests: Mapping[str, str]) -> str:
    """Write hexadecimal digests as the value of a Repr-Digest (RFC 9530 §3)."""
    return ", ".join(
        f"{name}=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"
        for name, digest in digests.items()
    )


def format_etag(sha256: str) -> str:
    """Write a hexadecimal SHA-256 as a strong entity tag (RFC 9110 §8.8.3)."""
    return f'"{sha256}"'


def format_http_date(moment: datetime) -> str:
    """Write an aware UTC time as an HTTP-date (RFC 9110 §5.6.7)."""
    return format_datetime(moment, usegmt=True)
