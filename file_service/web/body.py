"""A request's body as Chunks: coalesced, never inflated, and an error of ours when it breaks."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.web import PayloadAccessError, RequestPayloadError

from file_service.errors import (
    CutShort,
    EncodedContent,
    Stalled,
    UnknownCoding,
    UnknownExpectation,
    UnknownVersion,
)
from file_service.web.keys import EXPECTED, LIMITS

# Network reads are gathered up to this size before they are hashed and written: the hop to the
# disk thread costs the same for 16 KiB and for 256.
COALESCED = 256 * 1024


def check_encoding(request: web.Request) -> None:
    """Raise EncodedContent for a body that is not sent as it is to be stored."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise EncodedContent("Send the file as it is, without Content-Encoding.")


def check_framing(request: web.Request) -> None:
    """Raise for a request whose body, if any, cannot be told from what follows it.

    UnknownVersion, UnknownCoding, UnknownExpectation, in this order; before anything is read.
    """
    if request.version not in (HttpVersion10, HttpVersion11):
        raise UnknownVersion("The service speaks HTTP/1.0 and HTTP/1.1.")
    codings = request.headers.getall("Transfer-Encoding", ())
    if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
        raise UnknownCoding("The service knows the transfer coding 'chunked' alone.")
    expected = request.get(EXPECTED)
    if expected is not None and expected.strip().lower() != "100-continue":
        raise UnknownExpectation("The service knows the expectation '100-continue' alone.")


def forgo_body(request: web.Request) -> None:
    """Give up the rest of a body; one that its sender holds back is not waited for."""
    if EXPECTED in request:
        request.protocol._lingering_time = 0.0


async def _continue(request: web.Request) -> None:
    """Send 100 Continue to a client that waits for it (RFC 9110 §10.1.1).

    The request has been admitted by then: what is refused costs no byte of its body.
    """
    if request.pop(EXPECTED, None) is not None and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # or aiohttp takes it for the beginning of the answer


async def chunks(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at least COALESCED bytes, the last one as long as it is.

    Raises CutShort where the body ends before its Content-Length or its last chunk, and Stalled
    where it neither ends nor goes on.
    """
    await _continue(request)
    pieces: list[bytes] = []
    held = 0
    while piece := await _read(request):
        pieces.append(piece)
        held += len(piece)
        if held >= COALESCED:
            whole = b"".join(pieces)
            pieces.clear()
            held = 0
            # Else a piece stays alive beside the whole in every upload that waits for the disk,
            # and the whole in every one that waits for its client.
            del piece
            yield whole
            del whole
    if pieces:
        yield b"".join(pieces)


async def _read(request: web.Request) -> bytes:
    idle_seconds = request.app[LIMITS].idle_seconds
    try:
        # Of silence, not in all: a slow gigabyte is welcome.
        async with asyncio.timeout(idle_seconds):
            return await request.content.readany()
    except TimeoutError:
        raise Stalled(f"Nothing arrived for {idle_seconds:g} seconds.") from None
    except CutShort:
        raise
    except (ConnectionError, RequestPayloadError, PayloadAccessError) as error:
        raise CutShort("The connection or the framing of the body broke.") from error
