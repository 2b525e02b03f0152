"""Sends a body made of literal bytes and spans of a blob, by sendfile where it can."""

import asyncio
import logging
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, nullcontext
from typing import BinaryIO

from aiohttp import web

from file_service.errors import BlobMissing, FileServiceError, StoreUnavailable
from file_service.models import File
from file_service.tasks import in_executor
from file_service.web.access import SENT
from file_service.web.keys import FILES, IS_CUT, LIMITS, REQUEST_ID
from file_service.web.render import PROBLEMS

logger = logging.getLogger(__name__)

# Zero seconds of lingering make a close a RST: even a client that ignores lengths sees it.
_AT_ONCE = struct.pack("ii", 1, 0)

# Bytes after which a fast client's download leaves its thread to another.
TURN = 64 * 1024 * 1024

# How long a thread waits for a client itself: as long as it takes to come back to one that is fast.
PATIENCE_MS = 2

SENDERS = 16

# Their own threads: what is slow here, a client or a disk, is not to keep uploads waiting.
_senders = ThreadPoolExecutor(SENDERS, "send")

Segment = bytes | range
"""A piece of a response's body: bytes as they are, or a span of the blob."""


async def send_body(
    request: web.Request, response: web.StreamResponse, file: File, segments: Sequence[Segment]
) -> web.StreamResponse:
    """Send `segments` of `file` as the body of `response`; nothing of it for a HEAD.

    BlobMissing comes before the headers. A body that breaks later ends in a reset connection: what
    follows on it must not be taken for the rest.
    """
    response.content_length = sum(len(segment) for segment in segments)
    blob = await request.app[FILES].open(file)
    with blob or nullcontext(), _second_socket(request) as sock:
        await response.prepare(request)
        if request.method == "HEAD" or not response.content_length:
            return response  # from the same bytes as for a GET, or the same error
        try:
            for segment in segments:
                if isinstance(segment, bytes):
                    await response.write(segment)
                elif blob is None:
                    await _copy_span(request, response, file, segment)
                else:
                    await _send_span(request, sock, blob, segment)
                SENT.add(len(segment))
        except ConnectionError:
            raise  # the client left; before OSError, which it is, too
        except TimeoutError:
            logger.info("the client stopped reading %s", file.id, extra=_name(request))
            reset(request)
        except (OSError, FileServiceError):
            PROBLEMS.add(value=BlobMissing.code)
            extra = {"code": BlobMissing.code, **_name(request)}
            logger.exception("download of %s broke off", file.id, extra=extra)
            reset(request)
    return response


@contextmanager
def _second_socket(request: web.Request) -> Iterator[socket.socket]:
    """Open the connection once more: the transport's own descriptor cannot be waited on beside it.

    StoreUnavailable where there is none left, as where there is none for the blob.
    """
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client left")
    try:
        fd = os.dup(request.transport.get_extra_info("socket").fileno())
    except OSError as error:
        raise StoreUnavailable("The service has too many files open.") from error
    with socket.socket(fileno=fd) as sock:
        yield sock


async def _send_span(
    request: web.Request, sock: socket.socket, blob: BinaryIO, span: range
) -> None:
    """Have the kernel send the span, from a thread: the disk may take its time to read it.

    A reader that stops is the kernel's to notice, by the server's TCP_USER_TIMEOUT.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client left")
    transport.set_write_buffer_limits(0)
    await request.writer.drain()  # what was written before it goes before it
    transport.set_write_buffer_limits()
    if request.transport is not transport:
        raise ConnectionResetError("the client left")
    try:
        await _send_all(sock.fileno(), blob.fileno(), span)
    except BaseException:
        # Whoever closes it, and however gracefully: the body did not come whole.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        raise


async def _send_all(sock: int, blob: int, span: range) -> None:
    offset = span.start
    while offset < span.stop:
        until = min(span.stop, offset + TURN)
        sent = await in_executor(_senders, _send_now, sock, blob, offset, until)
        offset += sent
        if offset < until:
            await _wait_for_room(sock)


def _send_now(sock: int, blob: int, start: int, stop: int) -> int:
    """Send until the socket stays full; return how many bytes. BlobMissing at the blob's end."""
    room = select.poll()
    room.register(sock, select.POLLOUT)
    offset = start
    while offset < stop:
        try:
            sent = os.sendfile(sock, blob, offset, stop - offset)
        except BlockingIOError:
            if room.poll(PATIENCE_MS):
                continue
            break
        if sent == 0:
            raise BlobMissing("The blob shrank while it was sent.")
        offset += sent
    return offset - start


async def _wait_for_room(sock: int) -> None:
    loop = asyncio.get_running_loop()
    is_writable = loop.create_future()
    loop.add_writer(sock, _settle, is_writable)
    try:
        await is_writable
    finally:
        loop.remove_writer(sock)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _copy_span(
    request: web.Request, response: web.StreamResponse, file: File, span: range
) -> None:
    """Read the span and write it, a chunk at a time; TimeoutError where nobody takes it."""
    idle_seconds = request.app[LIMITS].idle_seconds
    loop = asyncio.get_running_loop()
    async with (
        aclosing(request.app[FILES].read(file, span.start, span.stop)) as chunks,
        asyncio.timeout(idle_seconds) as patience,
    ):
        async for chunk in chunks:
            await response.write(chunk)
            patience.reschedule(loop.time() + idle_seconds)


def _name(request: web.Request) -> dict[str, str | None]:
    return {"request_id": request.get(REQUEST_ID)}


def reset(request: web.Request) -> None:
    """Reset the connection, so that nothing that follows is taken for the rest of this answer."""
    request[IS_CUT] = True
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        transport.abort()
