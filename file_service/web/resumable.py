"""The addresses of resumable uploads: each is spoken of in the dialect it was created in."""

from aiohttp import web

from file_service.errors import FileNotFound, Malformed, UploadNotFound
from file_service.models import IETF, TUS, Upload
from file_service.web import body, downloads, draft, tus
from file_service.web.keys import DIALECT, RESUMABLE
from file_service.web.uploads import parse_raw


async def get_options(request: web.Request) -> web.Response:
    """Answer with what the service speaks, for clients of both dialects."""
    headers = tus.format_options(request.app[RESUMABLE].terms.max_size) | draft.format_options(
        request
    )
    return web.Response(headers=headers)  # 200: some browsers refuse a 204


async def post_uploads(request: web.Request) -> web.Response:
    """Create an upload."""
    if "Tus-Resumable" not in request.headers and draft.is_creation(request):
        return await draft.create(request, parse_raw(request))
    return await tus.create(request)


async def head_upload(request: web.Request) -> web.Response:
    """Answer with where the upload goes on; whoever is at work on it has to end."""
    upload = await request.app[RESUMABLE].settle(await _find(request))
    if request[DIALECT] == IETF:
        return draft.render_state(request, upload)
    return tus.render_state(upload)


async def get_upload(request: web.Request) -> web.StreamResponse:
    """Answer with the file that the upload has become."""
    upload = await request.app[RESUMABLE].find(request.match_info["id"])
    if upload.is_finished and not upload.manner.is_partial:
        return await downloads.get_file(request)
    if upload.manner.dialect == IETF:
        request[DIALECT] = IETF
        return draft.render_state(request, await request.app[RESUMABLE].settle(upload))
    raise FileNotFound("The upload is no file yet.")


async def patch_upload(request: web.Request) -> web.Response:
    """Add bytes to the upload."""
    with request.app[RESUMABLE].coming(request.match_info["id"]):
        return await _append(request)


async def _append(request: web.Request) -> web.Response:
    upload = await _find(request)
    body.check_encoding(request)
    if request[DIALECT] == IETF:
        return await draft.append(request, upload)
    part = tus.parse_append(request)
    return tus.render_appended(
        await request.app[RESUMABLE].append(upload, part, body.prompt_body(request))
    )


async def delete_upload(request: web.Request) -> web.Response:
    """End the upload, and with it the file that it may have become."""
    await request.app[RESUMABLE].cancel(await _find(request))
    return web.Response(status=204)


_OVERRIDES = {"PATCH": patch_upload, "DELETE": delete_upload, "HEAD": head_upload}


async def post_upload(request: web.Request) -> web.Response:
    """Do what a client means that can send no other method (tus 1.0, X-HTTP-Method-Override)."""
    method = request.headers.get("X-HTTP-Method-Override", "").upper()
    if method not in _OVERRIDES:
        raise Malformed("X-HTTP-Method-Override must be PATCH, DELETE or HEAD.")
    return await _OVERRIDES[method](request)


async def _find(request: web.Request) -> Upload:
    """Return the upload, once the request is seen to speak its dialect."""
    try:
        upload = await request.app[RESUMABLE].find(request.match_info["id"])
    except UploadNotFound:
        if "Tus-Resumable" in request.headers:
            tus.check_version(request)
        raise
    dialect = upload.manner.dialect or (TUS if "Tus-Resumable" in request.headers else IETF)
    request[DIALECT] = dialect
    if dialect == TUS:
        tus.check_version(request)
    return upload
