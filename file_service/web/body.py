"""A request's body as Chunks: coalesced, never inflated, and an error of ours when it breaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from aiohttp import HttpVersion10, HttpVersion11, web

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
from file_service.web.connection import Connection
from file_service.web.framing import Chunked, Counted
from file_service.web.headers import combine
from file_service.web.intake import COALESCED, Intake
from file_service.web.keys import EXPECTED, LIMITS, Limits

# What belongs to a resumable upload is not held back longer: it is to be there for whoever goes on.
QUIET_SECONDS = 0.05

RECEIVED = Counter("received_bytes", "Bytes of bodies that arrived, stored in the end or not.")


# Headers that mean one thing (RFC 9110 §5.3): which of two lines is meant, nobody can know.
_SINGLE = (
    "Content-Disposition", "Content-Range", "Content-Type", "If-Modified-Since", "If-Range",
    "If-Unmodified-Since", "Range", "Tus-Resumable", "Upload-Checksum", "Upload-Complete",
    "Upload-Concat", "Upload-Defer-Length", "Upload-Draft-Interop-Version", "Upload-Length",
    "Upload-Metadata", "Upload-Offset", "X-HTTP-Method-Override",
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


def is_at_hand(request: web.Request) -> bool:
    """Whether the whole body, of a known length, has arrived already, unasked for."""
    protocol, length = request.protocol, request.content_length
    if length is None or not isinstance(protocol, Connection):
        return False
    return protocol.has_whole_body(request.content, length)


def is_passed_over(request: web.Request) -> bool:
    """Give up what nobody has read of a body; whether its end is there, and a request may follow.

    A rest that its sender holds back is not waited for.
    """
    if request.content.is_eof() or request.transport is None:
        return request.content.is_eof()
    if EXPECTED in request:
        request.protocol._lingering_time = 0.0
    if (intake := _open(request)) is not None:
        intake.close()
    elif isinstance(request.protocol, Connection):
        request.protocol.forgo_body()
    return request.content.is_eof()


async def _continue(request: web.Request) -> None:
    """Send 100 Continue to a client that waits for it (RFC 9110 §10.1.1).

    The request has been admitted by then: what is refused costs no byte of its body.
    """
    if request.pop(EXPECTED, None) is not None and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # or aiohttp takes it for the beginning of the answer


class Body:
    """The body in pieces of at least COALESCED bytes, the last one as long as it is: a Stream.

    A piece is lent (`models.Chunk`). Raises CutShort where the body ends before its Content-Length
    or its last chunk, and Stalled where it goes on too slowly or not at all; what arrived before
    that, or before a cancellation, is yielded first. With `quiet_seconds` what has arrived is not
    held back longer than that.
    """

    def __init__(self, request: web.Request, *, quiet_seconds: float | None = None) -> None:
        self._request = request
        self._quiet_seconds = quiet_seconds
        self._intake: Intake | None = None
        self._is_nudged = False  # before there was anything to wait for

    def nudge(self) -> None:
        """Have what has arrived come at once: an empty piece, where nothing has."""
        if self._intake is None:
            self._is_nudged = True
        else:
            self._intake.nudge()

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        await _continue(self._request)
        intake = self._open()
        if intake is None:
            return
        reader = _Reader(intake, self._request.app[LIMITS], self._quiet_seconds)
        try:
            while not intake.is_ended:
                try:
                    await reader.wait()
                except (FileServiceError, asyncio.CancelledError):
                    for piece in reader.take():
                        yield piece
                    raise
                for piece in reader.take():
                    yield piece
            for piece in reader.take():
                yield piece
            if intake.error is not None:
                raise intake.error
        finally:
            intake.close()

    def _open(self) -> Intake | None:
        self._intake = _open_whole(self._request)
        if self._intake is not None and self._is_nudged:
            self._intake.nudge()
        return self._intake


def prompt_body(request: web.Request) -> Body:
    """Return a body of which nothing is held back for long."""
    return Body(request, quiet_seconds=QUIET_SECONDS)


def _open_whole(request: web.Request) -> Intake | None:
    """Open a body that nobody has read of; None where there is none, CutShort where it is lost."""
    intake = _open(request)
    if intake is None and (request._message.chunked or request.content_length):
        raise CutShort("The body is not where it should be.")
    return intake


def _open(request: web.Request) -> Intake | None:
    protocol = request.protocol
    if not isinstance(protocol, Connection):
        raise TypeError("a body is read from a Connection")
    framing = Chunked() if request._message.chunked else Counted(request.content_length or 0)
    return protocol.open_body(request.content, framing)


class _Reader:
    """Waits for a body from a client that neither falls silent nor drips.

    Only the time spent waiting for the client counts, and never all of it together: a slow gigabyte
    is welcome.
    """

    def __init__(self, intake: Intake, limits: Limits, quiet_seconds: float | None) -> None:
        self._intake = intake
        self._limits = limits
        self._quiet_seconds = quiet_seconds
        self._loop = asyncio.get_running_loop()
        self._waited = 0.0  # seconds, since the rate was last looked at
        self._received = 0  # bytes, then

    def take(self) -> Iterator[memoryview]:
        """Lend what has arrived, if anything has, or somebody asks."""
        is_asked = self._intake.is_nudged
        with self._intake.take() as piece:
            RECEIVED.add(len(piece))
            if piece or is_asked:
                yield piece

    async def wait(self) -> None:
        """Wait for a piece worth passing on, or the body's end; Stalled."""
        await self._wait_for(1)
        if self._quiet_seconds is None:
            await self._wait_for(COALESCED)
        else:
            await self._intake.wait(COALESCED, self._quiet_seconds)

    async def _wait_for(self, size: int) -> None:
        is_there = False
        while not is_there:
            asked_at, received = self._loop.time(), self._intake.received
            is_there = await self._intake.wait(size, self._limits.idle_seconds)
            if not is_there and self._intake.received == received:
                raise Stalled(f"Nothing arrived for {self._limits.idle_seconds:g} seconds.")
            self._waited += self._loop.time() - asked_at
            if self._waited > self._limits.idle_seconds:
                self._check_rate()

    def _check_rate(self) -> None:
        arrived = self._intake.received - self._received
        if arrived < self._limits.min_rate * self._waited:
            raise Stalled(f"Fewer than {self._limits.min_rate} bytes a second arrived.")
        self._waited, self._received = 0.0, self._intake.received
