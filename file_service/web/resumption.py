"""Read and write the headers of resumable uploads: tus 1.0 and the IETF draft; pure functions."""

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDictProxy

from file_service.core.digests import ALGORITHMS, CHECKSUMS
from file_service.core.names import parse_name
from file_service.errors import Malformed, UploadNotFound
from file_service.models import TUS, Checksum, Upload
from file_service.web.headers import combine, parse_digests, parse_media_type
from file_service.web.keys import DIALECT

TUS_VERSION = "1.0.0"

_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)
_KEY = re.compile(r"[!-+\--~]+", re.ASCII)  # printable ASCII without blank and comma
_UPLOAD_PATH = re.compile(r"(?:.*/)?uploads/([^/]+)/?")

# RFC 9651: what the fields of the draft are made of; a field that is none of it is ignored.
_PARAMETERS = r"""(?:;\ *[a-z*][a-z0-9_.*-]*(?:=(?:"(?:[^"\\]|\\.)*"|[^;"\s]*))?)*\s*"""  # §3.1.2
_BOOLEAN = re.compile(r"\s*\?([01])" + _PARAMETERS)
_INTEGER = re.compile(r"\s*([0-9]{1,15})" + _PARAMETERS)


def is_tus(request: web.BaseRequest) -> bool:
    """Whether an answer is one of tus: to /uploads/, unless the upload is one of the draft."""
    path = request.path
    if path != "/uploads" and not path.startswith("/uploads/"):
        return False
    return bool(request.get(DIALECT, TUS) == TUS)


def parse_count(headers: Mapping[str, str], name: str) -> int | None:
    """Return a number of bytes, None where there is no such header; Malformed for anything else."""
    value = headers.get(name)
    if value is None:
        return None
    if _COUNT.fullmatch(value) is None:
        raise Malformed(f"{name} is not a number of bytes.")
    return int(value)


def parse_boolean(value: str | None) -> bool | None:
    """Return a structured boolean, None for what is none (RFC 9651 §4.2.8)."""
    match = _BOOLEAN.fullmatch(value or "")
    return None if match is None else match[1] == "1"


def parse_integer(value: str | None) -> int | None:
    """Return a structured integer that is no negative one, None for what is none."""
    match = _INTEGER.fullmatch(value or "")
    return None if match is None else int(match[1])


def parse_metadata(sent: str | None) -> dict[str, str]:
    """Return what Upload-Metadata says: keys, and values in base64 that are UTF-8 text or nothing.

    Malformed for a key that is empty, odd or there twice, and for a value that is no base64; a
    value that is no text is left out, as it can only be meant for others.
    """
    found: dict[str, str] = {}
    seen = set()
    for pair in (sent or "").split(",") if (sent or "").strip() else ():
        key, _, encoded = pair.strip(" ").partition(" ")
        if _KEY.fullmatch(key) is None or key in seen:
            raise Malformed("Upload-Metadata has a key that is not acceptable, or there twice.")
        seen.add(key)
        try:
            value = base64.b64decode(encoded.strip(" "), validate=True)
        except ValueError:
            raise Malformed("Upload-Metadata has a value that is not base64.") from None
        if b"\0" in value:  # which PostgreSQL's JSON has no room for
            raise Malformed("Upload-Metadata has a value with a NUL character.")
        with suppress(UnicodeDecodeError):
            found[key] = value.decode()
    return found


def choose_name(metadata: Mapping[str, str]) -> str | None:
    """Return the file name that tus's clients say by one of two keys."""
    return parse_name(metadata.get("filename") or metadata.get("name") or "")


def choose_media_type(metadata: Mapping[str, str]) -> str | None:
    """Return the media type that tus's clients say by one of two keys, where it is one."""
    value = metadata.get("filetype") or metadata.get("type")
    try:
        return value if parse_media_type(value)[0] else None
    except Malformed:
        return None


def parse_checksum(value: str | None) -> Checksum | None:
    """Return what Upload-Checksum says; Malformed for no base64, or an unknown algorithm."""
    if value is None:
        return None
    algorithm, _, encoded = value.strip().partition(" ")
    if algorithm not in CHECKSUMS:
        raise Malformed(f"Upload-Checksum has none of {', '.join(CHECKSUMS)}.")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise Malformed("Upload-Checksum has a value that is not base64.") from None
    if not digest:
        raise Malformed("Upload-Checksum has no value.")
    return Checksum(algorithm=algorithm, value=digest)


def parse_content_digest(headers: CIMultiDictProxy[str]) -> Checksum | None:
    """Return what a Content-Digest (RFC 9530 §2) says of the bytes of one request, if anything."""
    known = parse_digests(combine(headers, "Content-Digest"))
    for name, value in known.items():
        return Checksum(algorithm=ALGORITHMS[name], value=value)
    return None


def parse_repr_digest(headers: CIMultiDictProxy[str]) -> dict[str, bytes]:
    """Return what the whole must hash to, whichever request its bytes come with (§3)."""
    return parse_digests(combine(headers, "Repr-Digest"))


def parse_parts(concat: str) -> list[str]:
    """Return the ids of the uploads that `final;url url …` names; UploadNotFound for other URLs."""
    kind, _, urls = concat.partition(";")
    if kind.strip() != "final" or not urls.split() or not concat.isascii():
        raise Malformed("Upload-Concat is neither 'partial' nor 'final;' with uploads.")
    return [_parse_upload_url(url) for url in urls.split()]


def _parse_upload_url(url: str) -> str:
    try:
        match = _UPLOAD_PATH.fullmatch(urlsplit(url).path)
    except ValueError:
        match = None
    if match is None:
        raise UploadNotFound("Upload-Concat names something that is no upload.")
    return match[1]


def format_limits(upload: Upload | None, *, max_size: int | None, max_age: int) -> str:
    """Return Upload-Limit: `expires` is the older drafts' word for `max-age`."""
    limits = {"max-age": max_age}
    if max_size is not None:
        limits["max-size"] = max_size
    if upload is not None and upload.manner.interop is not None and upload.manner.interop <= 6:
        limits["expires"] = max_age
    return ", ".join(f"{name}={value}" for name, value in limits.items())
