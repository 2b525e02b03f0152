"""healthz and readyz: what a supervisor and a load balancer ask."""

from aiohttp import web

from file_service.web.keys import HEALTH
from file_service.web.render import render_json

_FRESH = {"Cache-Control": "no-store"}


async def get_healthz(_request: web.Request) -> web.Response:
    """Answer while the process lives."""
    return render_json({"status": "alive"}, headers=_FRESH)


async def get_readyz(request: web.Request) -> web.Response:
    """Answer 200 only while files can be taken and served; the reasons otherwise."""
    await request.app[HEALTH].check()
    return render_json({"status": "ready"}, headers=_FRESH)
