"""GET and HEAD of one file: preconditions, ranges, and how its bytes may be shown."""

import asyncio
from secrets import token_hex

from aiohttp import web

from file_service.errors import NotRunnable, PreconditionFailed
from file_service.models import File
from file_service.web.access import SENT
from file_service.web.conditions import Verdict, is_range_current, judge
from file_service.web.connection import Connection
from file_service.web.headers import combine, format_etag, parse_media_type, parse_wanted_digests
from file_service.web.keys import FILES, HEALTH
from file_service.web.ranges import format_content_range, parse_ranges
from file_service.web.render import format_file_headers
from file_service.web.sendfile import Segment, send_body

# What may be shown in a page of the service's origin: media types that cannot run script. Never
# HTML, SVG, XML or PDF, whatever they are declared as.
SHOWABLE = frozenset({
    "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif",
    "video/mp4", "video/webm", "video/ogg",
    "audio/mpeg", "audio/mp4", "audio/ogg", "audio/webm", "audio/flac", "audio/wav", "audio/aac",
    "text/plain",
})  # fmt: skip


# What a browser fetches to run it (Fetch §2.2.5). Declared as JavaScript, and in a page of the same
# origin, an upload would get past `script-src 'self'`.
RUN = frozenset({
    "script", "style", "worker", "sharedworker", "serviceworker", "audioworklet", "paintworklet",
    "xslt",
})  # fmt: skip


# Files up to this size, in bytes, are read whole: a thread for the open costs as much as the rest.
SMALL = 64 * 1024


async def get_file(request: web.Request) -> web.StreamResponse:
    """Send a file, or the parts of it that are asked for, where the preconditions allow."""
    if request.headers.get("Sec-Fetch-Dest") in RUN:
        raise NotRunnable("A page may show or save this file, not run it.")
    asked_at = asyncio.get_running_loop().time()
    file = await request.app[FILES].get(request.match_info["id"])
    headers = format_file_headers(
        file,
        disposition=_choose_disposition(request, file),
        wanted=parse_wanted_digests(combine(request.headers, "Want-Repr-Digest")),
    )
    match judge(request.headers, format_etag(file.sha256), file.created_at):
        case Verdict.FAILED:
            raise PreconditionFailed("The file is not the one, or not as old, as you require.")
        case Verdict.NOT_MODIFIED:
            return _render_not_modified(headers)
    spans = _parse_spans(request, file)
    if spans is None and file.size <= SMALL:
        return await _send_small(request, file, headers, asked_at)
    if spans is None:
        response = web.StreamResponse(headers=headers)
        return await send_body(request, response, file, [range(file.size)])
    if len(spans) == 1:
        headers["Content-Range"] = format_content_range(spans[0], file.size)
        response = web.StreamResponse(status=206, headers=headers)
        return await send_body(request, response, file, spans)
    return await _send_several(request, file, headers, spans)


async def _send_small(
    request: web.Request, file: File, headers: dict[str, str], asked_at: float
) -> web.StreamResponse:
    """Send a small file in one write with its headers; the same question gets it again at once."""
    files, health = request.app[FILES], request.app[HEALTH]
    content, stamp = await files.load(file)
    response = web.Response(body=content, headers=headers)
    await response.prepare(request)
    await response.write_eof()
    if request.method != "HEAD":
        SENT.add(len(content))
    if stamp is None or not isinstance(request.protocol, Connection):
        return response

    lease = files.lease(file, stamp, asked_at)

    def is_current() -> bool:
        return not health.is_draining and lease.is_good()

    request.protocol.keep_answer(request, response, content, is_current)
    return response


def _choose_disposition(request: web.Request, file: File) -> str:
    """Grant `?disposition=inline` to what cannot run script; anything else is saved, not shown."""
    if request.query.get("disposition") != "inline":
        return "attachment"
    return "inline" if parse_media_type(file.media_type)[0] in SHOWABLE else "attachment"


def _render_not_modified(headers: dict[str, str]) -> web.Response:
    # RFC 9110 §15.4.5: what a 200 would have had to update a stored response, and no more.
    kept = ("ETag", "Cache-Control", "Last-Modified", "Content-Disposition", "Vary")
    return web.Response(status=304, headers={name: headers[name] for name in kept})


def _parse_spans(request: web.Request, file: File) -> list[range] | None:
    """Return the spans asked for, None for the whole; Range is defined for GET (RFC 9110 §14.2)."""
    value = request.headers.get("Range")
    if value is None or request.method != "GET":
        return None
    if not is_range_current(request.headers, format_etag(file.sha256), file.created_at):
        return None
    return parse_ranges(value, file.size)


async def _send_several(
    request: web.Request, file: File, headers: dict[str, str], spans: list[range]
) -> web.StreamResponse:
    """Send several ranges as multipart/byteranges (RFC 9110 §14.6)."""
    boundary = token_hex(16)
    segments: list[Segment] = []
    for span in spans:
        head = (
            f"\r\n--{boundary}\r\n"
            f"Content-Type: {headers['Content-Type']}\r\n"
            f"Content-Range: {format_content_range(span, file.size)}\r\n\r\n"
        )
        segments += [head.encode(), span]
    segments.append(f"\r\n--{boundary}--\r\n".encode())
    headers = headers | {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
    response = web.StreamResponse(status=206, headers=headers)
    return await send_body(request, response, file, segments)
