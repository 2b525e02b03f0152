"""How a file and a problem look in headers and in JSON."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from file_service.errors import FileServiceError, Malformed
from file_service.models import File
from file_service.web.headers import (
    format_digests,
    format_disposition,
    format_etag,
    format_http_date,
    is_json_preferred,
)
from file_service.web.keys import REQUEST_ID

# The problem types of digests are registered (draft-ietf-httpapi-digest-fields-problem-types).
REGISTERED = "https://iana.org/assignments/http-problem-types#"


def render_created(request: web.Request, files: Sequence[File]) -> web.Response:
    """Render 201: the bare id or the file as JSON for one file, a JSON array for several."""
    headers = {"Vary": "Accept"}
    if len(files) > 1:
        return render_json([format_file(file) for file in files], status=201, headers=headers)
    file = files[0]
    headers |= {
        "Location": format_path(file),
        "ETag": format_etag(file.sha256),
        "Repr-Digest": format_digests(file.digests),
    }
    if is_json_preferred(request.headers.get("Accept")):
        return render_json(format_file(file), status=201, headers=headers)
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


def format_file(file: File) -> dict[str, Any]:
    """Return a file as the JSON object of the contract."""
    return {
        "id": file.id,
        "name": file.name,
        "size": file.size,
        "media_type": file.media_type,
        "digest": format_digests({"sha-256": file.sha256}),
        "created_at": file.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "metadata": dict(file.metadata),
        "url": format_path(file),
    }


def format_path(file: File) -> str:
    """Return the path of a file's bytes, as links and Location show it."""
    return f"/files/{file.id}/"


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
        # A shared cache would outlive a deletion.
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def render_problem(
    request: web.BaseRequest, error: FileServiceError, status: int, **members: Any
) -> web.Response:
    """Render an error of ours as problem details (RFC 9457)."""
    return _render_problem(
        error.code, error.title, status, str(error), request_id=request.get(REQUEST_ID), **members
    )


def render_http_problem(
    request: web.BaseRequest, status: int, detail: str, headers: Mapping[str, str]
) -> web.Response:
    """Render what the router says (404, 405) as problem details."""
    phrase = HTTPStatus(status).phrase
    code = phrase.lower().replace(" ", "-")
    response = _render_problem(code, phrase, status, detail, request_id=request.get(REQUEST_ID))
    response.headers.update(headers)
    return response


def render_broken_request(request_id: str) -> web.Response:
    """Render the 400 for bytes that could not be parsed as a request; none of them is echoed."""
    response = _render_problem(
        Malformed.code,
        Malformed.title,
        400,
        "The request line, the headers or the framing could not be parsed.",
        request_id=request_id,
    )
    response.headers["X-Request-ID"] = request_id
    return response


def _render_problem(
    code: str, title: str, status: int, detail: str, **members: Any
) -> web.Response:
    kind = f"{REGISTERED if code.startswith('digest-') else '/problems/'}{code}"
    problem = {"type": kind, "title": title, "status": status, "detail": detail}
    body = json.dumps(problem | members, ensure_ascii=False).encode()
    return web.Response(
        body=body,
        status=status,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store"},
    )
