"""Cuts a stream of chunks into batches, each of which is made durable before the next."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from file_service.core.holds import Hold
from file_service.errors import UploadLost
from file_service.models import Chunk, Chunks

# A batch ends with so many bytes, or so long after its first one: no more can be lost by a crash.
SIZE = 16 * 1024 * 1024
SECONDS = 1.0

_NOTHING = b""


class Batches:
    """`chunks` in batches that end, too, where their client goes away or the hold is wanted.

    Every batch is to be read to its end. What ended the chunks is raised after the last batch, so
    that what came before is kept; UploadLost where the hold was wanted. An empty chunk answers a
    nudge of the hold's.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[Chunk, None],
        hold: Hold,
        *,
        size: float = SIZE,
        seconds: float = SECONDS,
    ) -> None:
        self._chunks = chunks
        self._hold = hold
        self._size = size
        self._seconds = seconds
        self._is_due = False
        self._end: BaseException | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after this batch."""
        return self._end is not None

    async def __aiter__(self) -> AsyncIterator[Chunks]:
        async with aclosing(self._chunks):  # who holds a buffer, and is held by an error
            while self._end is None:
                if first := await self._next():
                    yield self._gather(first)
        if not isinstance(self._end, StopAsyncIteration):
            raise self._end

    async def _gather(self, chunk: Chunk) -> AsyncIterator[Chunk]:
        self._is_due = False
        timer = asyncio.get_running_loop().call_later(self._seconds, self._make_due)
        size = 0
        try:
            while chunk:
                size += len(chunk)
                yield chunk
                is_full = self._is_due or size >= self._size
                chunk = _NOTHING if is_full else await self._next()
        finally:
            timer.cancel()

    def _make_due(self) -> None:
        self._is_due = True
        self._hold.nudge()

    async def _next(self) -> Chunk:
        """Return the next chunk; an empty one where there is none until now, or none any more."""
        if self._end is None and self._hold.is_wanted:
            self._end = UploadLost("A newer request goes on with this upload.")
        if self._end is not None:
            return _NOTHING
        try:
            return await self._hold.listen(self._chunks)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # raised at the end
            self._end = error
            return _NOTHING
