"""Around every handler: request id, access log, and errors turned into problems."""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from file_service import errors
from file_service.web.access import Access, make_request_id, tell
from file_service.web.body import check_framing, is_passed_over
from file_service.web.connection import Connection
from file_service.web.keys import CREATED, HEALTH, IS_CUT, REQUEST_ID
from file_service.web.origins import is_preflight, render_preflight
from file_service.web.proxies import find_client
from file_service.web.render import SERVER, render_http_problem, render_problem
from file_service.web.resumption import TUS_VERSION, is_tus
from file_service.web.sendfile import reset

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_RETRY = {"Retry-After": "2"}  # seconds

# Each error of ours and its status; a class not named goes by the nearest it descends from.
STATUS: dict[type[errors.FileServiceError], int] = {
    errors.FileServiceError: 500,
    errors.Malformed: 400,
    errors.CutShort: 400,
    errors.DigestMismatch: 400,
    errors.DigestUnsupported: 400,
    errors.DigestInvalid: 400,
    errors.LengthMismatch: 400,
    errors.NotAppendable: 403,
    errors.NotRunnable: 403,
    errors.FileNotFound: 404,
    errors.UploadNotFound: 404,
    errors.Stalled: 408,
    errors.OffsetMismatch: 409,
    errors.UploadExpired: 410,
    errors.PreconditionFailed: 412,
    errors.UnknownTusVersion: 412,
    errors.TooLarge: 413,
    errors.EncodedContent: 415,
    errors.WrongMediaType: 415,
    errors.RangeNotSatisfiable: 416,
    errors.UnknownExpectation: 417,
    errors.UploadBusy: 423,
    errors.UploadLost: 423,
    errors.ChecksumMismatch: 460,  # tus 1.0, extension checksum
    errors.UnknownCoding: 501,
    errors.UnknownVersion: 505,
    errors.Unavailable: 503,
    errors.NoRoom: 507,
}

# 5xx that are the caller's doing, and leave it to anybody's guess where the request ends.
_UNKNOWN = errors.UnknownCoding | errors.UnknownVersion

# RFC 3986 §3.2.2, and a port.
_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?")

_SANE_REQUEST_ID = re.compile(r"[0-9A-Za-z._~:/+=@-]{1,128}")


@web.middleware
async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name the request, answer its errors, and log it in one line."""
    started = time.perf_counter()
    request[REQUEST_ID] = _choose_request_id(request.headers.get("X-Request-ID"))
    status, size = 499, 0  # until there is an answer, the client is the one who left
    try:
        response = await _answer(request, handler)
        status = response.status
        size = 0 if request.method == "HEAD" else response.content_length or 0
        return response
    finally:
        tell(
            Access(
                request_id=request[REQUEST_ID],
                method=request.method,
                path=request.path,
                status=status,
                size=size,
                seconds=time.perf_counter() - started,
                remote=find_client(request),
                is_cut=IS_CUT in request,
            )
        )


async def name_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request id, and a Server that tells nothing, on every answer."""
    response.headers["Server"] = SERVER
    if _is_last(request):
        response.headers["Connection"] = "close"
        response.force_close()
    request_id = request.get(REQUEST_ID)
    if request_id is not None:
        response.headers["X-Request-ID"] = request_id
    if is_tus(request):
        response.headers["Tus-Resumable"] = TUS_VERSION
    if CREATED in request:  # also on an error: the upload exists, and can be gone on with
        response.headers["Location"] = request[CREATED]


def _is_last(request: web.Request) -> bool:
    """Whether the connection ends with this answer (RFC 9112 §9.6)."""
    if not is_passed_over(request):
        return True  # reading the rest of a body to keep the connection would cost more
    if isinstance(request.protocol, Connection) and request.protocol.is_at_end:
        return True
    # aiohttp loses what comes behind a request for an upgrade that nobody grants, and a CONNECT.
    is_upgrade = "Upgrade" in request.headers or request.method == "CONNECT"
    return request.app[HEALTH].is_draining or is_upgrade


def _choose_request_id(sent: str | None) -> str:
    """Take over the caller's id where it is one that a log can hold, else make one."""
    if sent is not None and _SANE_REQUEST_ID.fullmatch(sent):
        return sent
    return make_request_id()


def _check_host(request: web.Request) -> None:
    """Raise Malformed for a Host that is none (RFC 9112 §3.2); aiohttp sees that there is one."""
    if not _HOST.fullmatch(request.headers.get("Host", "")):
        raise errors.Malformed("The Host header is no host.")


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        check_framing(request)
        _check_host(request)
        return render_preflight() if is_preflight(request) else await handler(request)
    except errors.FileServiceError as error:
        _check_unanswered(request, error)
        return _render_error(request, error)
    except web.HTTPException as error:
        return _render_router_error(request, error)
    except ConnectionError:
        raise  # the client left while an answer was sent: nobody to tell
    except Exception as error:  # noqa: BLE001  # whatever it is, the client gets a problem
        unexpected = errors.FileServiceError("An unexpected error; the log has it.")
        unexpected.__cause__ = error
        _check_unanswered(request, unexpected)
        return _render_error(request, unexpected)


def _check_unanswered(request: web.Request, error: errors.FileServiceError) -> None:
    """Break the connection off where an answer has begun: a second would pass for the next one."""
    if request.writer.output_size > 0:
        _log_trouble(request, error)
        reset(request)
        raise ConnectionResetError("an answer broke off after its head")


def _render_error(request: web.Request, error: errors.FileServiceError) -> web.Response:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if status >= 500 and not isinstance(error, _UNKNOWN):
        _log_trouble(request, error)
    members, headers = _explain(error)
    response = render_problem(request, error, status, **members)
    response.headers.update(headers)
    if isinstance(error, errors.ChecksumMismatch):
        response.set_status(status, "Checksum Mismatch")  # the one that no registry has
    if isinstance(error, errors.UploadLost | _UNKNOWN):
        response.force_close()
    return response


def _explain(error: errors.FileServiceError) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what an error adds to the problem's members and to the answer's headers."""
    members: dict[str, Any] = {}
    headers: dict[str, str] = {}
    match error:
        case errors.OutcomeUnknown():
            members = {"outcome": "unknown", "id": error.file_ids[0]}
            if len(error.file_ids) > 1:
                members["ids"] = error.file_ids
            headers = _RETRY
        case errors.Unavailable() | errors.UploadBusy() | errors.UploadLost():
            headers = _RETRY
        case errors.OffsetMismatch():
            members = {"expected-offset": error.expected, "provided-offset": error.provided}
            headers = {"Upload-Offset": str(error.expected), "Upload-Complete": "?0"}
        case errors.UnknownTusVersion():
            headers = {"Tus-Version": TUS_VERSION}
        case errors.RangeNotSatisfiable():
            headers = {"Content-Range": f"bytes */{error.size}"}  # RFC 9110 §15.5.17
        case errors.EncodedContent():
            headers = {"Accept-Encoding": "identity"}  # RFC 9110 §15.5.16
    return members, headers


def _render_router_error(request: web.Request, error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"This resource answers to {allowed}."
        return render_http_problem(request, 405, detail, {"Allow": allowed})
    return render_http_problem(request, error.status, "There is nothing at this address.", {})


def _log_trouble(request: web.Request, error: errors.FileServiceError) -> None:
    extra = {"request_id": request[REQUEST_ID], "code": error.code, "cause": repr(error.__cause__)}
    if isinstance(
        error, errors.Unavailable | errors.NoRoom
    ):  # asked for again and again: no traceback each time
        logger.warning("%s", error, extra=extra)
    else:
        logger.error("%s", error, exc_info=error, extra=extra)
