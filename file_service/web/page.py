"""The upload page: a handful of known files, read once and served from memory."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from aiohttp import web

from file_service.errors import PreconditionFailed
from file_service.web.conditions import Verdict, judge
from file_service.web.headers import format_etag, format_http_date

FOLDER = Path(__file__).with_name("static")
PAGE = "index.html"

# Nothing else is ever served from the folder: a name is looked up here, never made a path of.
MEDIA_TYPES = {
    PAGE: "text/html; charset=utf-8",
    "format.js": "text/javascript; charset=utf-8",
    "leftovers.js": "text/javascript; charset=utf-8",
    "row.js": "text/javascript; charset=utf-8",
    "transfer.js": "text/javascript; charset=utf-8",
    "upload.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
    "upload.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "tus.min.js": "text/javascript; charset=utf-8",
    "tus.LICENSE.txt": "text/plain; charset=utf-8",
}

# What is not named here the page cannot do: no script or style within it, nobody else's address.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked for again each time: an update is seen at once
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    """A file of the page: its bytes and what is said of them."""

    body: bytes
    media_type: str
    etag: str
    modified_at: datetime


@cache
def _load() -> dict[str, _Asset]:
    """Return every file of the page by its name, read once."""
    # When it was read, not the files' own times: a wheel gives those of every version the same.
    read_at = datetime.now(UTC)
    assets = {}
    for name, media_type in MEDIA_TYPES.items():
        body = (FOLDER / name).read_bytes()
        etag = format_etag(hashlib.sha256(body).hexdigest())
        assets[name] = _Asset(body, media_type, etag, read_at)
    return assets


async def get_page(request: web.Request) -> web.Response:
    """Answer with the upload page."""
    return _render(request, _load()[PAGE])


async def get_asset(request: web.Request) -> web.Response:
    """Answer with a file that the page is made of."""
    name = request.match_info["name"]
    if name not in MEDIA_TYPES:
        raise web.HTTPNotFound
    return _render(request, _load()[name])


def _render(request: web.Request, asset: _Asset) -> web.Response:
    headers = _HEADERS | {
        "ETag": asset.etag,
        "Last-Modified": format_http_date(asset.modified_at),
    }
    match judge(request.headers, asset.etag, asset.modified_at):
        case Verdict.FAILED:
            raise PreconditionFailed("The page is not the one, or not as old, as you require.")
        case Verdict.NOT_MODIFIED:
            return web.Response(status=304, headers=headers)
    return web.Response(body=asset.body, headers=headers | {"Content-Type": asset.media_type})
