"""GET and HEAD of one file's bytes."""

import asyncio
import logging
import socket
import struct
from contextlib import aclosing

from aiohttp import web

from file_service.errors import FileServiceError
from file_service.models import File
from file_service.web.keys import FILES, IDLE_SECONDS
from file_service.web.render import format_file_headers

logger = logging.getLogger(__name__)


async def get_file(request: web.Request) -> web.StreamResponse:
    """Send a file's bytes; for HEAD the same headers alone."""
    files = request.app[FILES]
    file = await files.get(request.match_info["id"])
    response = web.StreamResponse(headers=format_file_headers(file))
    response.content_length = file.size
    if request.method == "HEAD" or file.size == 0:
        await response.prepare(request)
        return response
    return await _send(request, response, file)


async def _send(
    request: web.Request, response: web.StreamResponse, file: File
) -> web.StreamResponse:
    idle_seconds = request.app[IDLE_SECONDS]
    async with aclosing(request.app[FILES].read(file)) as chunks:
        # The first chunk comes before the headers: bytes that are not there are still a 500.
        chunk = await anext(chunks)
        await response.prepare(request)
        try:
            async with asyncio.timeout(idle_seconds) as patience:
                await response.write(chunk)
                async for chunk in chunks:
                    patience.reschedule(asyncio.get_running_loop().time() + idle_seconds)
                    await response.write(chunk)
        except TimeoutError:
            logger.info("the client stopped reading %s", file.id)
            reset(request)
        except FileServiceError:
            # Too late for a status. The client must not take what it has for the whole file.
            logger.exception("download of %s broke off", file.id)
            reset(request)
    return response


def reset(request: web.Request) -> None:
    """Reset the connection, so that nothing that follows is taken for the rest of this answer."""
    transport = request.transport
    if transport is not None:
        # Zero seconds of lingering make it a RST: even a client that ignores lengths sees it.
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        transport.abort()
