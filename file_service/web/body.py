"""A request's body as Chunks: coalesced, never inflated, and an error of ours when it breaks."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.web import PayloadAccessError, RequestPayloadError

from file_service.errors import (
    CutShort,
    EncodedContent,
    FileServiceError,
    Malformed,
    Stalled,
    UnknownCoding,
    UnknownExpectation,
    UnknownVersion,
)
from file_service.metrics import Counter
from file_service.web.headers import combine
from file_service.web.keys import EXPECTED, LIMITS

# Network reads are gathered up to this size before they are hashed and written: the hop to the
# disk thread costs the same for 16 KiB and for 256.
COALESCED = 256 * 1024

# What belongs to a resumable upload is not held back longer: it is to be there for whoever goes on.
QUIET_SECONDS = 0.05

RECEIVED = Counter("received_bytes", "Bytes of bodies that arrived, stored in the end or not.")


# Headers that mean one thing (RFC 9110 §5.3): which of two lines is meant, nobody can know.
_SINGLE = (
    "Content-Disposition", "Content-Range", "Content-Type", "If-Modified-Since", "If-Range",
    "If-Unmodified-Since", "Range",
)  # fmt: skip


def check_encoding(request: web.Request) -> None:
    """Raise EncodedContent for a body that is not sent as it is to be stored."""
    codings = (combine(request.headers, "Content-Encoding") or "").lower().split(",")
    if any(coding.strip() not in {"", "identity"} for coding in codings):
        raise EncodedContent("Send the file as it is, without Content-Encoding.")


def check_framing(request: web.Request) -> None:
    """Raise for a request whose body, if any, cannot be told from what follows it.

    UnknownVersion, Malformed, UnknownCoding, UnknownExpectation; before anything is read.
    """
    if request.version not in (HttpVersion10, HttpVersion11):
        raise UnknownVersion("The service speaks HTTP/1.0 and HTTP/1.1.")
    for name in _SINGLE:
        if len(request.headers.getall(name, ())) > 1:
            raise Malformed(f"The header {name} is there twice.")
    codings = request.headers.getall("Transfer-Encoding", ())
    if codings and request.version < HttpVersion11:
        raise UnknownCoding("HTTP/1.0 has no transfer codings.")  # RFC 9112 §6.1: and closed
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


async def chunks(
    request: web.Request, *, quiet_seconds: float | None = None
) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at least COALESCED bytes, the last one as long as it is.

    Raises CutShort where the body ends before its Content-Length or its last chunk, and Stalled
    where it goes on too slowly or not at all; what arrived before that, or before a cancellation,
    is yielded first. With `quiet_seconds` what has arrived is not held back longer than that.
    """
    await _continue(request)
    reader = _Reader(request)
    pieces: list[bytes] = []
    held = 0
    while True:
        try:
            piece = await reader.read(quiet_seconds if pieces else None)
        except (FileServiceError, asyncio.CancelledError):
            pieces.append(reader.take_rest())
            if rest := b"".join(pieces):
                yield rest
            raise
        if not piece and piece is not None:
            break
        if piece:
            pieces.append(piece)
            held += len(piece)
        if held >= COALESCED or piece is None:
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


def prompt_chunks(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body as `chunks` does, and hold nothing back for long."""
    return chunks(request, quiet_seconds=QUIET_SECONDS)


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

    async def read(self, quiet_seconds: float | None = None) -> bytes | None:
        """Return what has arrived, b"" at the end of the body; Stalled, or CutShort.

        None where nothing arrives within `quiet_seconds`.
        """
        asked_at = self._loop.time()
        try:
            async with asyncio.timeout(quiet_seconds or self._limits.idle_seconds):
                piece = await self._content.readany()
        except TimeoutError:
            if quiet_seconds is not None:
                self._waited += self._loop.time() - asked_at
                return None
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

    def take_rest(self) -> bytes:
        """Return what has arrived of a body that has come to a bad end."""
        # aiohttp keeps it, and raises what ended the body to everybody who asks for it.
        return self._content._read_nowait(-1) if self._content._buffer else b""

    def _check_rate(self) -> None:
        if self._arrived < self._limits.min_rate * self._waited:
            raise Stalled(f"Fewer than {self._limits.min_rate} bytes a second arrived.")
        self._waited, self._arrived = 0.0, 0
