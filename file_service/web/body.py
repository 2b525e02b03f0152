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
from file_service.metrics import Counter
from file_service.web.keys import EXPECTED, LIMITS

# Network reads are gathered up to this size before they are hashed and written: the hop to the
# disk thread costs the same for 16 KiB and for 256.
COALESCED = 256 * 1024

RECEIVED = Counter("received_bytes", "Bytes of bodies that arrived, stored in the end or not.")


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
    if (
        codings and request.version < HttpVersion11
    ):  # RFC 9112 §6.1: its framing is not to be trusted
        raise UnknownCoding("HTTP/1.0 knows no transfer codings.")
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
    where it goes on too slowly or not at all.
    """
    await _continue(request)
    reader = _Reader(request)
    pieces: list[bytes] = []
    held = 0
    while piece := await reader.read():
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


class _Reader:
    """Reads a body as it arrives, from a client that neither falls silent nor drips.

    Only the time spent waiting for the client counts, and never all of it together: a slow gigabyte
    is welcome.
    """

    def __init__(self, request: web.Request) -> None:
        self._content = request.content
        self._limits = request.app[LIMITS]
        self._loop = asyncio.get_running_loop()
        self._waited = 0.0  # seconds, since the rate was last looked at
        self._arrived = 0  # bytes, since then

    async def read(self) -> bytes:
        """Return what has arrived, b"" at the end of the body; Stalled, or CutShort."""
        asked_at = self._loop.time()
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                piece = await self._content.readany()
        except TimeoutError:
            silence = f"Nothing arrived for {self._limits.idle_seconds:g} seconds."
            raise Stalled(silence) from None
        except CutShort:
            raise
        except (ConnectionError, RequestPayloadError, PayloadAccessError) as error:
            raise CutShort("The connection or the framing of the body broke.") from error
        RECEIVED.add(len(piece))
        self._waited += self._loop.time() - asked_at
        self._arrived += len(piece)
        if self._waited > self._limits.idle_seconds:
            self._check_rate()
        return piece

    def _check_rate(self) -> None:
        if self._arrived < self._limits.min_rate * self._waited:
            raise Stalled(f"Fewer than {self._limits.min_rate} bytes a second arrived.")
        self._waited, self._arrived = 0.0, 0
