"""What supervisors, load balancers and developers ask: health, metrics, descriptions."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from file_service import metrics
from file_service.errors import find_kinds
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


async def get_metrics(_request: web.Request) -> web.Response:
    """Answer with the counters of all workers, in Prometheus' text format."""
    headers = {"Content-Type": metrics.CONTENT_TYPE, **_FRESH}
    return web.Response(body=metrics.format_all().encode(), headers=headers)


async def get_openapi(_request: web.Request) -> web.Response:
    """Answer with the description of the API."""
    return render_json(load_description())


async def get_problem(request: web.Request) -> web.Response:
    """Answer with what a problem type means, which its URI leads to (RFC 9457 §3.1.1)."""
    kind = find_kinds().get(request.match_info["code"])
    if kind is None:
        raise web.HTTPNotFound
    description = (kind.__doc__ or "").partition("\n")[0]
    return render_json({"title": kind.title, "description": description})


@cache
def load_description() -> dict[str, Any]:
    """Return the OpenAPI description, read once."""
    description: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    )
    return description
