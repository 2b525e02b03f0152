"""A request's body taken straight off its socket: into one buffer while others are worked on.

While a body arrives, the connection's transport speaks to an Intake instead of aiohttp's parser;
the kernel writes into the very bytes that are hashed and written to disk.
"""

import asyncio
from collections import deque
from typing import Protocol

from file_service.errors import CutShort
from file_service.web.framing import Framing

# A chunk worth a hop to the disk thread; what a buffer holds more than that came by itself.
COALESCED = 256 * 1024
LARGEST_BUFFER = 2 * 1024 * 1024
SMALLEST_BUFFER = 32 * 1024

# All bodies of a worker together; each has two buffers, smaller ones where there are many.
BUDGET = 32 * 1024 * 1024

# Buffers that are kept, besides one for each body: to make a new one takes as long as to fill it.
MOST_SPARE = 3

# A read into less room than this is not worth its system call.
SMALLEST_READ = 4 * 1024


class Owner(Protocol):
    """What an intake asks of the connection that it reads for."""

    def pause_writing(self) -> None:
        """Have writers wait, as asyncio.Protocol has it."""

    def resume_writing(self) -> None:
        """Have writers go on."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Learn that the connection is gone."""

    def end_body(self, surplus: bytes) -> None:
        """Take the transport back at the end of the body, and what was read past it."""

    def leave_body(self, error: CutShort | None) -> None:
        """Take the transport back in the middle of the body, which `error` has ended, if any."""


class Buffers:
    """The buffers of a worker's bodies: large where few arrive at once, small where many do.

    Whoever was given a view of a buffer may be at work on it, in whatever thread; as long as there
    is any view, it is not lent again.
    """

    def __init__(self) -> None:
        self.bodies = 0
        self._kept: deque[bytearray] = deque()

    def begin_body(self) -> None:
        """Count a body more."""
        self.bodies += 1

    def end_body(self) -> None:
        """Count a body less."""
        self.bodies -= 1
        self._trim()

    def choose_size(self) -> int:
        """Return the size in bytes of one of a body's two buffers, a power of two."""
        share = BUDGET // (2 * max(1, self.bodies))
        return max(SMALLEST_BUFFER, min(LARGEST_BUFFER, 1 << (share.bit_length() - 1)))

    def lend(self, size: int, *, new: int | None = None) -> bytearray:
        """Return a buffer of at least `size` bytes; of `new` ones, where it has to be made.

        What is in it is anybody's.
        """
        for _ in range(len(self._kept)):
            buffer = self._kept.popleft()
            if len(buffer) != self.choose_size():
                continue
            if size <= len(buffer) and _is_free(buffer):
                return buffer
            self._kept.append(buffer)
        return bytearray(size if new is None else new)

    def take_back(self, buffer: bytearray) -> None:
        """Keep a buffer for whoever is next, if it is of the size that is lent now."""
        if len(buffer) == self.choose_size():
            self._kept.append(buffer)
            self._trim()

    def _trim(self) -> None:
        while len(self._kept) > MOST_SPARE + self.bodies:
            self._kept.popleft()


def _is_free(buffer: bytearray) -> bool:
    """Whether nobody has a view of it: only then may its size change (PEP 3118)."""
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)
    return True


class Intake(asyncio.BufferedProtocol):
    """Reads one body; `error` is what ended it early."""

    def __init__(
        self, owner: Owner, transport: asyncio.Transport, framing: Framing, buffers: Buffers
    ) -> None:
        self.received = 0  # bytes of content, until now
        self.error: CutShort | None = None
        self._owner = owner
        self._transport = transport
        self._framing = framing
        self._buffers = buffers
        self._buffer = bytearray()
        self._filled = 0  # bytes of content in the buffer, not yet taken
        self._enough = 0  # bytes that are waited for
        self._waiter: asyncio.Future[None] | None = None
        self._is_reading = self._is_full = self._is_paused = False
        self.is_nudged = False  # whoever waits goes on with what has arrived
        buffers.begin_body()

    # ── for the body's reader ──

    def open(self, arrived: bytes | bytearray, *, is_at_end: bool) -> None:
        """Begin with what has arrived already; nothing follows where the client `is_at_end`."""
        size = max(len(arrived), self._choose_size())
        # Of those that begin at once, the first ones do not know yet how many there will be.
        self._buffer = self._buffers.lend(size, new=max(len(arrived), min(COALESCED, size)))
        self._buffer[: len(arrived)] = arrived
        self._is_reading = True
        self._transport.set_protocol(self)
        self.buffer_updated(len(arrived))
        if is_at_end:
            self.eof_received()

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will arrive, for whatever reason."""
        return self._framing.is_complete or self.error is not None

    async def wait(self, size: int, seconds: float) -> bool:
        """Wait until `size` bytes can be taken, or the end is there; False where it takes longer.

        A buffer that is full is enough, whatever its size, and so is anything after a nudge.
        """
        if self._filled >= size or self.is_ended or self._is_full or self.is_nudged:
            return True
        self._enough = size
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._waiter
        except TimeoutError:
            return False
        finally:
            self._waiter = None
        return True

    def take(self) -> memoryview:
        """Return what has arrived since the last call; whoever has no more use for it releases it.

        Empty where nothing has, and at the end.
        """
        self.is_nudged = False
        content = memoryview(b"")
        if self._filled:
            content = memoryview(self._buffer)[: self._filled]
            self._buffers.take_back(self._buffer)
            self._buffer = bytearray()
            self._filled = 0
        if not (self._buffer or self.is_ended):
            self._buffer = self._buffers.lend(self._choose_size())
        if self._is_full:
            self._is_full = False
            # Not at once: the piece is handed to a thread first, which works on it while the
            # kernel copies what comes next.
            asyncio.get_running_loop().call_soon(self._resume)
        return content

    def nudge(self) -> None:
        """Have whoever waits, or will, go on with what has arrived until then, if anything has."""
        self.is_nudged = True
        self._wake()

    def close(self) -> None:
        """Read no further, and take no more; a body that is not complete is left where it is."""
        self._end()
        self._buffers.take_back(self._buffer)
        self._buffer = bytearray()
        self._filled = 0

    # ── for the transport ──

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the room that is left."""
        room = len(self._buffer) - self._filled
        return memoryview(self._buffer)[self._filled : self._filled + min(room, self._framing.most)]

    def buffer_updated(self, nbytes: int) -> None:
        """Find the content in what has arrived."""
        try:
            end = self._framing.decode(self._buffer, self._filled, self._filled + nbytes)
        except CutShort as error:
            self._break(error)
            return
        self.received += end - self._filled
        self._filled = end
        if self._framing.is_complete:
            self._end()
        elif len(self._buffer) - self._filled < SMALLEST_READ:
            self._is_full = self._is_paused = True
            self._transport.pause_reading()
        if self._filled >= self._enough or self._is_full or self.is_ended:
            self._wake()

    def eof_received(self) -> bool:
        """Keep the connection open: an answer is owed (RFC 9112 §9.6)."""
        if not self.is_ended:
            self._break(CutShort("The client stopped sending before the body's end."))
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the reader, then the connection."""
        if not self.is_ended:
            self._break(CutShort("The connection broke."))
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._owner.resume_writing()

    def _end(self) -> None:
        if not self._is_reading:
            return
        self._is_reading = False
        self._buffers.end_body()
        self._resume()
        if self._framing.is_complete:
            self._owner.end_body(self._framing.surplus)
        else:
            self._owner.leave_body(self.error)

    def _break(self, error: CutShort) -> None:
        self.error = error
        self._end()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _choose_size(self) -> int:
        # No larger than what is to come; never empty, which would pass for the end.
        return max(1, min(self._buffers.choose_size(), self._framing.most))
