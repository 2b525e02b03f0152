"""tus 1.0 spoken onto Resumable: core, and every extension but checksum-trailer."""

from email.utils import format_datetime

from aiohttp import web

from file_service.core.digests import CHECKSUMS
from file_service.errors import (
    DigestMismatch,
    Malformed,
    TooLarge,
    UnknownTusVersion,
    WrongMediaType,
)
from file_service.models import TUS, Append, Checksum, Manner, NewUpload, Upload
from file_service.web import body
from file_service.web.headers import combine, parse_wanted_digests
from file_service.web.keys import CREATED, DIALECT, RESUMABLE
from file_service.web.render import format_upload_url
from file_service.web.resumption import (
    TUS_VERSION,
    choose_media_type,
    choose_name,
    parse_checksum,
    parse_content_digest,
    parse_count,
    parse_metadata,
    parse_parts,
    parse_repr_digest,
)

BYTES = "application/offset+octet-stream"
EXTENSIONS = (
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,"
    "concatenation"
)


def check_version(request: web.Request) -> None:
    """Raise UnknownTusVersion unless the request is one of tus 1.0.0."""
    if request.headers.get("Tus-Resumable") != TUS_VERSION:
        raise UnknownTusVersion(f"Tus-Resumable must be {TUS_VERSION}.")


def format_options(max_size: int | None) -> dict[str, str]:
    """Return the headers that tell what of tus the service speaks."""
    headers = {
        "Tus-Version": TUS_VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
    }
    if max_size is not None:
        headers["Tus-Max-Size"] = str(max_size)
    return headers


# ── creation ──


async def create(request: web.Request) -> web.Response:
    """Create an upload: empty, with its first bytes, or of others that are finished."""
    request[DIALECT] = TUS
    check_version(request)
    body.check_encoding(request)
    manner = Manner(
        dialect=TUS,
        sent_metadata=request.headers.get("Upload-Metadata") or None,
        concat=request.headers.get("Upload-Concat"),
    )
    metadata = parse_metadata(manner.sent_metadata)
    new = NewUpload(
        name=choose_name(metadata),
        media_type=choose_media_type(metadata),
        length=None if manner.is_final else _parse_length(request),
        metadata=metadata,
        digests=parse_repr_digest(request.headers),
        wanted_digests=frozenset(
            parse_wanted_digests(combine(request.headers, "Want-Repr-Digest"))
        ),
    )
    if manner.is_final:
        return await _concatenate(request, new, manner)
    part = _parse_first(request)
    if new.length is not None and (part.size or 0) > new.length:
        raise TooLarge(f"The upload has a length of {new.length} bytes.")
    upload = await request.app[RESUMABLE].create(new, manner)
    request[CREATED] = format_upload_url(request, upload)
    if part.size != 0 or upload.is_complete:
        upload = await _add_first(request, upload, part)
    return _render_created(upload)


async def _add_first(request: web.Request, upload: Upload, part: Append) -> Upload:
    """Add the bytes that came with a creation; it comes to nothing where they are too many."""
    resumable = request.app[RESUMABLE]
    try:
        return await resumable.append(upload, part, body.prompt_body(request))
    except TooLarge:
        request.pop(CREATED, None)
        await resumable.give_up(upload)
        raise
    except DigestMismatch:
        request.pop(CREATED, None)  # the whole is not what it should be, and gone
        raise


def _parse_length(request: web.Request) -> int | None:
    length = parse_count(request.headers, "Upload-Length")
    deferred = request.headers.get("Upload-Defer-Length")
    if deferred not in {None, "1"} or (length is None) == (deferred is None):
        raise Malformed("Upload-Length, or Upload-Defer-Length: 1, must be there.")
    return length


def _parse_first(request: web.Request) -> Append:
    """Return what a creation says of the bytes that come with it."""
    has_bytes = request.body_exists and request.content_length != 0
    if has_bytes and request.content_type != BYTES:
        raise WrongMediaType(f"Bytes for an upload are {BYTES}.")
    return Append(
        offset=0,
        size=request.content_length if has_bytes else 0,
        checksum=_parse_checksum(request),
    )


def _parse_checksum(request: web.Request) -> Checksum | None:
    sent = parse_checksum(request.headers.get("Upload-Checksum"))
    return sent or parse_content_digest(request.headers)


async def _concatenate(request: web.Request, new: NewUpload, manner: Manner) -> web.Response:
    has_bytes = request.body_exists and request.content_length != 0
    if "Upload-Length" in request.headers or has_bytes:
        raise Malformed("What is made of other uploads has neither a length nor bytes of its own.")
    parts = parse_parts(manner.concat or "")
    upload = await request.app[RESUMABLE].concatenate(new, manner, parts)
    request[CREATED] = format_upload_url(request, upload)
    return _render_created(upload)


def _render_created(upload: Upload) -> web.Response:
    headers = {"Upload-Offset": str(upload.offset), **_format_expiry(upload)}
    return web.Response(status=201, headers=headers)


# ── what is there, and more of it ──


def parse_append(request: web.Request) -> Append:
    """Return what a PATCH says of the bytes it brings."""
    if request.content_type != BYTES:
        raise WrongMediaType(f"Bytes for an upload are {BYTES}.")
    offset = parse_count(request.headers, "Upload-Offset")
    if offset is None:
        raise Malformed("Upload-Offset must be there.")
    return Append(
        offset=offset,
        size=request.content_length if request.body_exists else 0,
        length=parse_count(request.headers, "Upload-Length"),
        checksum=_parse_checksum(request),
    )


def render_appended(upload: Upload) -> web.Response:
    """Render the answer to a PATCH."""
    headers = {"Upload-Offset": str(upload.offset), **_format_expiry(upload)}
    return web.Response(status=204, headers=headers)


def render_state(upload: Upload) -> web.Response:
    """Render the answer to a HEAD."""
    headers = {"Cache-Control": "no-store", **_format_expiry(upload)}
    manner = upload.manner
    if upload.is_finished or not manner.is_final:
        headers["Upload-Offset"] = str(upload.offset)
    if upload.length is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(upload.length)
    if manner.sent_metadata is not None:
        headers["Upload-Metadata"] = manner.sent_metadata
    if manner.concat is not None:
        headers["Upload-Concat"] = manner.concat
    return web.Response(headers=headers)


def _format_expiry(upload: Upload) -> dict[str, str]:
    if upload.is_finished and not upload.manner.is_partial:
        return {}
    return {"Upload-Expires": format_datetime(upload.expires_at, usegmt=True)}
