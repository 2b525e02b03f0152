"""A request's body taken straight off its socket: into one buffer while the other is worked on.

While a body arrives, the connection's transport speaks to an Intake instead of aiohttp's parser;
the kernel writes into the very bytes that are hashed and written to disk.
"""

import asyncio
from typing import Protocol

from file_service.errors import CutShort
from file_service.web.framing import Framing

# A chunk worth a hop to the disk thread; what a buffer holds more than that came by itself.
COALESCED = 256 * 1024
LARGEST_BUFFER = 1024 * 1024
SMALLEST_BUFFER = 32 * 1024

# All bodies of a worker together; each has two buffers, smaller ones where there are many.
BUDGET = 32 * 1024 * 1024

# Large buffers that are kept for the bodies to come: to make a new one takes as long as to fill it.
MOST_SPARE = 4

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
    """The buffers of a worker's bodies: large where few arrive at once, small where many do."""

    def __init__(self) -> None:
        self.bodies = 0
        self._spare: list[bytearray] = []

    def choose_size(self) -> int:
        """Return the size in bytes of one of a body's two buffers, a power of two."""
        share = BUDGET // (2 * max(1, self.bodies))
        return max(SMALLEST_BUFFER, min(LARGEST_BUFFER, 1 << (share.bit_length() - 1)))

    def has_spare(self, size: int) -> bool:
        """Whether a buffer of `size` bytes is there already."""
        return size == LARGEST_BUFFER and bool(self._spare)

    def lend(self, size: int) -> bytearray:
        """Return a buffer of `size` bytes; what is in it is anybody's."""
        return self._spare.pop() if self.has_spare(size) else bytearray(size)

    def take_back(self, buffer: bytearray) -> None:
        """Keep a buffer that nobody uses any more, if it is a large one."""
        if len(buffer) == LARGEST_BUFFER and len(self._spare) < MOST_SPARE:
            self._spare.append(buffer)


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
        self._buffer = self._spare = bytearray()
        self._filled = 0  # bytes of content in the buffer, not yet taken
        self._enough = 0  # bytes that are waited for
        self._waiter: asyncio.Future[None] | None = None
        self._is_reading = self._is_full = self._is_paused = False
        buffers.bodies += 1

    # ── for the body's reader ──

    def open(self, arrived: bytes | bytearray, *, is_at_end: bool) -> None:
        """Begin with what has arrived already; nothing follows where the client `is_at_end`."""
        size = self._choose_size()
        if not self._buffers.has_spare(size):
            # Of those that begin at once, the first ones do not know yet how many there will be.
            size = min(COALESCED, size)
        self._buffer = self._buffers.lend(max(len(arrived), size))
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

        A buffer that is full is enough, whatever its size.
        """
        if self._filled >= size or self.is_ended or self._is_full:
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
        """Return what has arrived since the last call, to be used until the next one.

        Empty where nothing has, and at the end.
        """
        content = memoryview(self._buffer)[: self._filled]
        if self._filled and not self.is_ended:
            self._buffer, self._spare = self._fit(self._spare), self._buffer
        self._filled = 0
        if self._is_full:
            self._is_full = False
            # Not at once: the piece is handed to a thread first, which works on it while the
            # kernel copies what comes next.
            asyncio.get_running_loop().call_soon(self._resume)
        return content

    def close(self) -> None:
        """Read no further; a body that is not complete is left where it is."""
        if not self._is_reading:
            return
        self._is_reading = False
        self._buffers.bodies -= 1
        self._resume()
        if self._framing.is_complete:
            self._owner.end_body(self._framing.surplus)
        else:
            self._owner.leave_body(self.error)

    def give_back(self) -> None:
        """Give up the buffers of a body that is closed; nobody may use what was taken any more."""
        for buffer in (self._buffer, self._spare):
            self._buffers.take_back(buffer)
        self._buffer = self._spare = bytearray()

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
            self.close()
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

    def _break(self, error: CutShort) -> None:
        self.error = error
        self.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _fit(self, buffer: bytearray) -> bytearray:
        """Return the buffer, or another one where it is too small or too large by now."""
        size = self._choose_size()
        if size <= len(buffer) <= self._buffers.choose_size():
            return buffer
        self._buffers.take_back(buffer)
        return self._buffers.lend(size)

    def _choose_size(self) -> int:
        # No larger than what is to come; never empty, which would pass for the end.
        return max(1, min(self._buffers.choose_size(), self._framing.most))
