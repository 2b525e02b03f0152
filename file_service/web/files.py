"""What is known of a file, and its deletion."""

from aiohttp import web

from file_service.errors import PreconditionFailed
from file_service.web.conditions import Verdict, has_conditions, judge
from file_service.web.headers import format_etag
from file_service.web.keys import FILES
from file_service.web.render import format_file, render_json


async def get_info(request: web.Request) -> web.Response:
    """Answer with the file as JSON."""
    file = await request.app[FILES].get(request.match_info["id"])
    # Asked again each time: what is kept of it would outlive a deletion.
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return render_json(format_file(request, file), headers=headers)


async def delete_file(request: web.Request) -> web.Response:
    """Delete the file, where the preconditions allow; from the answer on it is nowhere."""
    if has_conditions(request.headers):
        file = await request.app[FILES].get(request.match_info["id"])
        if judge(request.headers, format_etag(file.sha256), file.created_at) is not Verdict.SEND:
            raise PreconditionFailed("The file is not the one, or not as old, as you require.")
    await request.app[FILES].delete(request.match_info["id"])
    return web.Response(status=204)
