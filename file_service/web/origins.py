"""CORS: which pages of other origins may use the service, and what they may see of an answer."""

from collections.abc import Collection

from aiohttp import web

from file_service.web.keys import PUBLIC

METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

ALLOWED = (
    "Authorization, Content-Digest, Content-Disposition, Content-Type, If-Match, If-Modified-Since,"
    " If-None-Match, If-Range, If-Unmodified-Since, Range, Repr-Digest, Tus-Resumable,"
    " Upload-Checksum, Upload-Complete, Upload-Concat, Upload-Defer-Length,"
    " Upload-Draft-Interop-Version, Upload-Length, Upload-Metadata, Upload-Offset,"
    " Want-Repr-Digest, X-HTTP-Method-Override, X-Request-ID, X-Requested-With"
)
EXPOSED = (
    "Accept-Ranges, Allow, Content-Disposition, Content-Length, Content-Range, ETag, Last-Modified,"
    " Location, Repr-Digest, Retry-After, Tus-Checksum-Algorithm, Tus-Extension, Tus-Max-Size,"
    " Tus-Resumable, Tus-Version, Upload-Complete, Upload-Concat, Upload-Defer-Length,"
    " Upload-Draft-Interop-Version, Upload-Expires, Upload-Length, Upload-Limit, Upload-Metadata,"
    " Upload-Offset, X-Request-ID"
)
MAX_AGE_SECONDS = 86_400


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks on a page's behalf what it may do (Fetch §4.8)."""
    return (
        request.method == "OPTIONS"
        and "Access-Control-Request-Method" in request.headers
        and _is_allowed(request, request.app[PUBLIC].origins)
    )


def render_preflight() -> web.Response:
    """Render the answer to a preflight; `allow_origin` puts the origin on it."""
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ALLOWED,
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
    }
    return web.Response(status=204, headers=headers)


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Let a page of a listed origin read the answer, also where it is an error."""
    origins = request.app[PUBLIC].origins
    if not origins:
        return
    vary = response.headers.get("Vary")
    response.headers["Vary"] = f"{vary}, Origin" if vary else "Origin"
    if _is_allowed(request, origins):
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = EXPOSED


def _is_allowed(request: web.Request, origins: Collection[str]) -> bool:
    # Exactly as listed: no wildcard, no suffix, never 'null'.
    return request.headers.get("Origin") in origins
