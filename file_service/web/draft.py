"""The IETF draft of resumable uploads spoken onto Resumable; interop versions 5 to 9."""

from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, web

from file_service.errors import (
    ChecksumMismatch,
    DigestMismatch,
    FileServiceError,
    LengthMismatch,
    Malformed,
    TooLarge,
    WrongMediaType,
)
from file_service.models import IETF, OLDER, Append, Manner, NewUpload, Upload
from file_service.web import body
from file_service.web.keys import CREATED, DIALECT, RESUMABLE
from file_service.web.render import format_upload_url, render_created
from file_service.web.resumption import (
    choose_media_type,
    choose_name,
    format_limits,
    parse_boolean,
    parse_content_digest,
    parse_integer,
    parse_metadata,
)

BYTES = "application/partial-upload"

INTEROP = "Upload-Draft-Interop-Version"
SUPPORTED = range(5, 10)


def is_creation(request: web.Request) -> bool:
    """Whether an upload to /files/ is to be resumable: it says whether it is complete."""
    return parse_boolean(request.headers.get("Upload-Complete")) is not None


def brings_part(request: web.Request) -> bool:
    """Whether what comes with a creation is not the whole."""
    return parse_boolean(request.headers.get("Upload-Complete")) is False


def format_options(request: web.Request) -> dict[str, str]:
    """Return the headers that tell a client of the draft what it may do."""
    return {"Upload-Limit": _format_limits(request, None)}


async def create(request: web.Request, new: NewUpload) -> web.Response:
    """Create an upload of what the request begins with, and finish it where that is all."""
    request[DIALECT] = IETF
    is_last = bool(parse_boolean(request.headers.get("Upload-Complete")))
    length = parse_integer(request.headers.get("Upload-Length"))
    manner = Manner(dialect=IETF, interop=_parse_interop(request))
    part = Append(
        offset=0,
        size=_get_size(request),
        length=length,
        is_last=is_last,
        # Of the whole it is a digest like any other, which an interruption does no harm.
        checksum=None if is_last else parse_content_digest(request.headers),
    )
    resumable = request.app[RESUMABLE]
    upload = await resumable.create(_name(request, new, part.declared_length), manner)
    request[CREATED] = format_upload_url(request, upload)
    with resumable.coming(upload.id):
        await _send_interim(request, upload, {"Location": request[CREATED]})
        upload = await _add(request, upload, part, (TooLarge, LengthMismatch))
    return await _render(request, upload)


def _parse_interop(request: web.Request) -> int | None:
    """Return the version of the draft that the client has announced, if we speak it."""
    interop = parse_integer(request.headers.get(INTEROP))
    return interop if interop in SUPPORTED else None


async def _add(
    request: web.Request,
    upload: Upload,
    part: Append,
    hopeless: tuple[type[FileServiceError], ...],
) -> Upload:
    """Add bytes; after an error that is `hopeless` the upload is of no use any more, and goes."""
    resumable = request.app[RESUMABLE]
    try:
        return await resumable.append(
            upload, part, body.prompt_body(request), tell=_teller(request, upload)
        )
    except ChecksumMismatch as error:
        raise DigestMismatch("Content-Digest") from error  # 460 is a word of tus
    except hopeless:
        request.pop(CREATED, None)
        await resumable.give_up(upload)
        raise
    except DigestMismatch:
        request.pop(CREATED, None)  # the whole is not what it should be, and gone
        raise


def _name(request: web.Request, new: NewUpload, length: int | None) -> NewUpload:
    """Return what is to be stored; tus-js-client names it as for tus."""
    metadata = parse_metadata(request.headers.get("Upload-Metadata"))
    media_type = None if request.content_type == BYTES else new.media_type
    return NewUpload(
        name=new.name or choose_name(metadata),
        media_type=media_type or choose_media_type(metadata),
        length=length,
        metadata={**metadata, **new.metadata},
        digests=new.digests,
        wanted_digests=new.wanted_digests,
    )


async def append(request: web.Request, upload: Upload) -> web.Response:
    """Add what a PATCH brings; replay the last answer where the upload is finished."""
    part = _parse_append(request, upload)
    upload = await _add(request, upload, part, (TooLarge,))  # §4.4: more than declared
    return await _render(request, upload)


def _parse_append(request: web.Request, upload: Upload) -> Append:
    is_older = upload.manner.interop in OLDER
    if request.content_type != BYTES and upload.manner.interop != OLDER[0]:
        raise WrongMediaType(f"Bytes for an upload are {BYTES}.")
    offset = parse_integer(request.headers.get("Upload-Offset"))
    is_last = parse_boolean(request.headers.get("Upload-Complete"))
    length = parse_integer(request.headers.get("Upload-Length"))
    if offset is None or (is_last is None and not (is_older and length is not None)):
        raise Malformed("Upload-Offset and Upload-Complete must be there.")
    return Append(
        offset=offset,
        size=_get_size(request),
        is_last=bool(is_last),
        length=length,
        checksum=parse_content_digest(request.headers),
    )


def _get_size(request: web.Request) -> int | None:
    return request.content_length if request.body_exists else 0


def render_state(request: web.Request, upload: Upload) -> web.Response:
    """Render the answer to a HEAD, or to a GET of what is not finished."""
    headers = {"Cache-Control": "no-store", **_format_state(request, upload)}
    return web.Response(status=204, headers=headers)


async def _render(request: web.Request, upload: Upload) -> web.Response:
    """Render the answer to bytes: that of the file, once it is one."""
    if upload.is_finished:
        request.pop(CREATED, None)  # the file's own address is there instead
        file = await request.app[RESUMABLE].get_file(upload)
        response = render_created(request, [file])
    else:
        is_new = CREATED in request or upload.manner.interop in OLDER
        response = web.Response(status=201 if is_new else 204)
    response.headers.update(_format_state(request, upload))
    return response


def _format_state(request: web.Request, upload: Upload) -> dict[str, str]:
    headers = {
        "Upload-Offset": str(upload.offset),
        "Upload-Complete": "?1" if upload.is_finished else "?0",
        "Upload-Limit": _format_limits(request, upload),
    }
    if upload.length is not None:
        headers["Upload-Length"] = str(upload.length)
    return headers


def _format_limits(request: web.Request, upload: Upload | None) -> str:
    terms = request.app[RESUMABLE].terms
    return format_limits(
        upload, max_size=terms.max_size, max_age=int(terms.lifetime.total_seconds())
    )


def _teller(request: web.Request, upload: Upload) -> Callable[[int], Awaitable[None]]:
    async def tell(offset: int) -> None:
        await _send_interim(request, upload, {"Upload-Offset": str(offset)})

    return tell


async def _send_interim(request: web.Request, upload: Upload, headers: dict[str, str]) -> None:
    """Send 104 to a client that has announced a version of the draft that we speak, alone.

    Others take an interim answer that they do not know for the last one.
    """
    interop = _parse_interop(request)
    if interop is None or request.version < HttpVersion11:
        return
    headers |= {INTEROP: str(interop), "Upload-Limit": _format_limits(request, upload)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    await request.writer.write(f"HTTP/1.1 104 Upload Resumption Supported\r\n{lines}\r\n".encode())
    request.writer.output_size = 0  # or aiohttp takes it for the beginning of the answer
