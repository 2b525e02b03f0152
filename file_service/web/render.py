"""How a file and a problem look in headers and in JSON."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from http import HTTPStatus
from typing import Any

from aiohttp import web

from file_service.errors import FileServiceError, Malformed, find_kinds
from file_service.metrics import Counter
from file_service.models import File, Upload
from file_service.web.headers import (
    combine,
    format_digests,
    format_disposition,
    format_etag,
    format_http_date,
    is_html_preferred,
    is_json_preferred,
)
from file_service.web.keys import PUBLIC, REQUEST_ID

SERVER = "file-service"


def _name_status(status: HTTPStatus) -> str:
    return status.phrase.lower().replace(" ", "-")


PROBLEMS = Counter(
    "problems",
    "Errors, by the code of their problem type.",
    label="code",
    values=[*find_kinds(), *(_name_status(status) for status in HTTPStatus)],
)

# Problem types that are registered, those of digests and of resumable uploads.
REGISTERED = "https://iana.org/assignments/http-problem-types#"
_REGISTERED_CODES = {
    "digest-mismatched-values",
    "digest-unsupported-algorithms",
    "digest-invalid-values",
    "mismatching-upload-offset",
    "inconsistent-upload-length",
}


def render_created(request: web.Request, files: Sequence[File]) -> web.Response:
    """Render 201: the bare id or the file as JSON for one file, a JSON array for several."""
    headers = {"Vary": "Accept"}
    if len(files) > 1:
        return render_json(
            [format_file(request, file) for file in files], status=201, headers=headers
        )
    file = files[0]
    headers |= {
        "Location": format_url(request, file),
        "ETag": format_etag(file.sha256),
        "Repr-Digest": format_digests(file.digests),
    }
    if is_json_preferred(combine(request.headers, "Accept")):
        return render_json(format_file(request, file), status=201, headers=headers)
    return web.Response(text=file.id, status=201, headers=headers)


def render_json(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Render `value` as JSON, names in their own script."""
    return web.Response(
        body=json.dumps(value, ensure_ascii=False).encode(),  # RFC 8259 §8.1: UTF-8, no charset
        status=status,
        headers=headers,
        content_type="application/json",
    )


def format_file(request: web.Request, file: File) -> dict[str, Any]:
    """Return a file as the JSON object of the contract."""
    return {
        "id": file.id,
        "name": file.name,
        "size": file.size,
        "media_type": file.media_type,
        "digest": format_digests({"sha-256": file.sha256}),
        "created_at": file.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "metadata": dict(file.metadata),
        "url": format_url(request, file),
    }


def format_url(request: web.Request, file: File) -> str:
    """Return where a file's bytes are: below the public address, or a path where none is known."""
    return f"{request.app[PUBLIC].url}/files/{file.id}/"


def format_upload_url(request: web.Request, upload: Upload) -> str:
    """Return where an upload goes on."""
    return f"{request.app[PUBLIC].url}/uploads/{upload.id}"


def format_file_headers(
    file: File, *, disposition: str, wanted: Sequence[str] = ()
) -> dict[str, str]:
    """Return the headers of a file's bytes, Content-Length aside, with the digests `wanted`."""
    digests = {name: file.digests[name] for name in wanted if name in file.digests}
    return {
        "Content-Type": file.media_type,
        "Content-Disposition": format_disposition(file.name, disposition=disposition),
        "ETag": format_etag(file.sha256),
        "Last-Modified": format_http_date(file.created_at),
        "Repr-Digest": format_digests(digests or {"sha-256": file.sha256}),
        "Accept-Ranges": "bytes",
        # A stored file is never run in the origin of the service, whatever it is.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cross-Origin-Resource-Policy": "same-site",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        # What was saved may not come out of the browser's cache to be run.
        "Vary": "Sec-Fetch-Dest",
        # A shared cache would outlive a deletion.
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def render_problem(
    request: web.BaseRequest, error: FileServiceError, status: int, **members: Any
) -> web.Response:
    """Render an error of ours as problem details (RFC 9457)."""
    members = {"request_id": request.get(REQUEST_ID), **members}
    return _render_problem(request, error.code, error.title, status, str(error), **members)


def render_http_problem(
    request: web.BaseRequest, status: int, detail: str, headers: Mapping[str, str]
) -> web.Response:
    """Render what the router says (404, 405) as problem details."""
    phrase = HTTPStatus(status).phrase
    code = _name_status(HTTPStatus(status))
    request_id = request.get(REQUEST_ID)
    response = _render_problem(request, code, phrase, status, detail, request_id=request_id)
    response.headers.update(headers)
    return response


def render_broken_request(request_id: str, status: int) -> web.Response:
    """Render the error for bytes that could not be parsed as a request; none of them is echoed."""
    phrase = HTTPStatus(status).phrase
    code, title = _name_status(HTTPStatus(status)), phrase
    if status == 400:
        code, title = Malformed.code, Malformed.title
    detail = "The request line, the headers or the framing could not be parsed."
    response = _render_problem(None, code, title, status, detail, request_id=request_id)
    told = {"X-Request-ID": request_id, "Server": SERVER, "Connection": "close"}
    response.headers.update(told)
    return response


def format_response(response: web.Response) -> bytes:
    """Write a response as the bytes that end a connection."""
    status = HTTPStatus(response.status)
    body = response.body if isinstance(response.body, bytes) else b""
    headers = {**response.headers, "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status} {status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _render_problem(
    request: web.BaseRequest | None,
    code: str,
    title: str,
    status: int,
    detail: str,
    **members: Any,
) -> web.Response:
    PROBLEMS.add(value=code)
    kind = f"{REGISTERED if code in _REGISTERED_CODES else '/problems/'}{code}"
    problem = {"type": kind, "title": title, "status": status, "detail": detail}
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if request is not None and is_html_preferred(combine(request.headers, "Accept")):
        return _render_page(problem | members, headers)
    return web.Response(
        body=json.dumps(problem | members, ensure_ascii=False).encode(),
        status=status,
        content_type="application/problem+json",
        headers=headers,
    )


def _render_page(problem: dict[str, Any], headers: dict[str, str]) -> web.Response:
    """Render a problem for a person whose browser opened a link."""
    title, detail = escape(problem["title"]), escape(problem["detail"])
    page = (
        f"<!doctype html><meta charset=utf-8><title>{title}</title>"
        f"<h1>{title}</h1><p>{detail}</p>"
        f"<p><small>{problem['status']} &middot; {escape(str(problem['request_id']))}</small></p>"
    )
    return web.Response(
        body=page.encode(),
        status=problem["status"],
        content_type="text/html",
        charset="utf-8",
        headers=headers | {"Content-Security-Policy": "default-src 'none'"},
    )
