"""Uploads in one request: a raw body, a form, PUT."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from urllib.parse import unquote_to_bytes

from aiohttp import web

from file_service.core.digests import Measured
from file_service.core.names import OCTETS, parse_name
from file_service.errors import (
    BadName,
    DigestMismatch,
    FileNotFound,
    Malformed,
    PreconditionFailed,
    TooLarge,
)
from file_service.models import Chunks, NewUpload
from file_service.web import body, draft, form, render
from file_service.web.headers import (
    combine,
    parse_digests,
    parse_disposition,
    parse_media_type,
    parse_wanted_digests,
)
from file_service.web.keys import FILES, LIMITS, UPLOADS
from file_service.web.resumption import parse_repr_digest

FORM = "multipart/form-data"

# How often the most that text fields may have is kept: each file of a form has them all.
_MOST_KEPT = 16

# curl adds this to any --data-binary; a file of it is not what anybody stores.
_UNDECLARED = {"", OCTETS, "application/x-www-form-urlencoded"}


async def post_file(request: web.Request) -> web.Response:
    """Store a raw body as one file, or every file of a form."""
    media_type, _ = parse_media_type(request.headers.get("Content-Type"))
    await _check_conditions(request)
    if media_type == FORM:
        return await _post_form(request)
    return await _store(request, parse_raw(request))


async def put_file(request: web.Request) -> web.Response:
    """Store a raw body as a new file of the name in the path."""
    _check_utf8(request.rel_url.raw_path)
    await _check_conditions(request)
    return await _store(request, _parse_new_upload(request, parse_name(request.match_info["id"])))


async def _store(request: web.Request, new: NewUpload) -> web.Response:
    if draft.is_creation(request):
        return await draft.create(request, new)
    file = await request.app[UPLOADS].store(new, body.Body(request))
    return render.render_created(request, [file])


def parse_raw(request: web.Request) -> NewUpload:
    """Return what a request says of the one file that is its body."""
    return _parse_new_upload(request, _parse_name(request))


async def _post_form(request: web.Request) -> web.Response:
    body.check_encoding(request)
    _check_whole(request)
    boundary = form.parse_boundary(request.headers["Content-Type"])
    chunks: Chunks = body.Body(request)
    if digests := _parse_digests(request):
        chunks = Measured(chunks, expected=digests)
    parts = form.read_parts(chunks, boundary, request.app[LIMITS].form_parts)
    files = await request.app[UPLOADS].store_all(
        _parse_parts(request, parts), length=request.content_length
    )
    return render.render_created(request, files)


def _parse_new_upload(request: web.Request, name: str | None) -> NewUpload:
    body.check_encoding(request)
    _check_whole(request)
    if draft.brings_part(request):  # whose own digest is not that of the file
        digests = parse_repr_digest(request.headers)
    else:
        digests = _parse_digests(request)
    return NewUpload(
        name=name,
        media_type=_declared(request.headers.get("Content-Type")),
        length=request.content_length,
        digests=digests,
        wanted_digests=_parse_wanted(request),
        is_at_hand=body.is_at_hand(request),
    )


def _check_whole(request: web.Request) -> None:
    if "Content-Range" in request.headers:  # RFC 9110 §14.5: or a part is stored as the whole
        raise Malformed("An upload of a part of a file is not understood.")


def _parse_digests(request: web.Request) -> dict[str, bytes]:
    """Return what the body must hash to: without a content coding both headers mean the same."""
    sent = parse_digests(combine(request.headers, "Content-Digest"))
    also = parse_digests(combine(request.headers, "Repr-Digest"))
    for name in sent.keys() & also.keys():
        if sent[name] != also[name]:
            raise DigestMismatch(name)
    return sent | also


def _parse_wanted(request: web.Request) -> frozenset[str]:
    return frozenset(parse_wanted_digests(combine(request.headers, "Want-Repr-Digest")))


def _parse_name(request: web.Request) -> str | None:
    """Return the name from Content-Disposition, else from the query, None where neither has it."""
    disposition = request.headers.get("Content-Disposition")
    sent = parse_disposition(disposition).filename if disposition else None
    if not sent:
        _check_utf8(request.rel_url.raw_query_string)
    return parse_name(sent or request.query.get("filename", ""))


def _check_utf8(encoded: str) -> None:
    try:
        unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise BadName("The name in the URL is not UTF-8.") from None


async def _check_conditions(request: web.Request) -> None:
    """Raise PreconditionFailed where an upload is to replace something, or nothing (§13.1)."""
    if "If-Match" in request.headers:
        raise PreconditionFailed("An upload makes a new file: there is none yet to match.")
    if "If-None-Match" in request.headers:
        with suppress(FileNotFound):  # a name that is the id of a file is the address of that, too
            await request.app[FILES].get(request.match_info.get("id", ""))
            raise PreconditionFailed("There is a file at this address.")


def _declared(content_type: str | None) -> str | None:
    """Return the media type that the client really declares, with its parameters."""
    media_type, _ = parse_media_type(content_type)
    return None if media_type in _UNDECLARED or content_type is None else content_type.strip()


async def _parse_parts(
    request: web.Request, parts: AsyncIterator[form.Part]
) -> AsyncIterator[tuple[NewUpload, Chunks]]:
    """Yield the files of a form, each with the text fields that came before it."""
    fields: dict[str, str] = {}
    kept = 0
    wanted = _parse_wanted(request)
    most = request.app[LIMITS].form_fields
    async for part in parts:
        if part.filename is None:
            if part.name in fields:  # RFC 7578 §4.3: else the first would be lost
                raise Malformed(f"The form has the text field {part.name!r} twice.")
            fields[part.name] = await form.read_text(part, _room(fields, part.name, most))
        elif not part.filename:
            await form.pass_over(part)
        else:
            kept += _measure(fields)
            if kept > _MOST_KEPT * most:
                raise TooLarge("The text fields are too long to be kept for each of the files.")
            yield _parse_part(part, fields, wanted), part.chunks


def _parse_part(part: form.Part, fields: Mapping[str, str], wanted: frozenset[str]) -> NewUpload:
    return NewUpload(
        name=parse_name(part.filename or ""),
        media_type=_declared(part.content_type),
        metadata=dict(fields),
        digests=parse_digests(part.content_digest),
        wanted_digests=wanted,
    )


def _measure(fields: Mapping[str, str]) -> int:
    """Return the bytes of text fields as they are kept and answered: escaped, with each file."""
    return len(json.dumps(fields)) if fields else 0


def _room(fields: Mapping[str, str], name: str, most: int) -> int:
    """Return the bytes left for the value of one more field; never negative."""
    used = sum(len(text.encode()) for pair in fields.items() for text in pair)
    return max(0, most - used - len(name.encode()))
