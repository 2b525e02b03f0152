"""What is known of a file, and its deletion."""

from aiohttp import web

from file_service.web.keys import FILES
from file_service.web.render import format_file, render_json


async def get_info(request: web.Request) -> web.Response:
    """Answer with the file as JSON."""
    file = await request.app[FILES].get(request.match_info["id"])
    return render_json(format_file(request, file))


async def delete_file(request: web.Request) -> web.Response:
    """Delete the file; from the answer on it is nowhere to be had."""
    await request.app[FILES].delete(request.match_info["id"])
    return web.Response(status=204)
