"""Cuts a stream of chunks into batches, each of which is made durable before the next."""

import asyncio
from collections.abc import AsyncIterator

from file_service.core.holds import Hold
from file_service.errors import UploadLost
from file_service.models import Chunk, Chunks

# A batch ends with so many bytes, or so long after its first one: no more can be lost by a crash.
SIZE = 16 * 1024 * 1024
SECONDS = 1.0


class Batches:
    """`chunks` in batches that end, too, where their client goes away or the hold is wanted.

    Every batch is to be read to its end. What ended the chunks is raised after the last batch, so
    that what came before is kept; UploadLost where the hold was wanted.
    """

    def __init__(
        self, chunks: Chunks, hold: Hold, *, size: float = SIZE, seconds: float = SECONDS
    ) -> None:
        self._chunks = aiter(chunks)
        self._hold = hold
        self._size = size
        self._seconds = seconds
        self._arriving: asyncio.Future[Chunk] | None = None
        self._end: BaseException | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after this batch."""
        return self._end is not None

    async def __aiter__(self) -> AsyncIterator[Chunks]:
        while self._end is None:
            first = await self._next(None)
            if first is not None:
                yield self._gather(first)
        if not isinstance(self._end, StopAsyncIteration):
            raise self._end

    async def _gather(self, chunk: Chunk | None) -> AsyncIterator[Chunk]:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._seconds
        size = 0
        while chunk is not None:
            size += len(chunk)
            yield chunk
            if size >= self._size:
                return
            chunk = await self._next(ends_at - loop.time())

    async def _next(self, seconds: float | None) -> Chunk | None:
        """Return the next chunk; None where it does not come in time, or none comes any more."""
        if self._end is not None or (seconds is not None and seconds <= 0):
            return None
        if self._hold.is_wanted:
            return await self._give_up()
        if self._arriving is None:
            self._arriving = asyncio.ensure_future(self._pull())
        if await self._hold.listen(self._arriving, seconds):
            return self._take()
        return await self._give_up() if self._hold.is_wanted else None

    async def _give_up(self) -> Chunk | None:
        """Take what has arrived, and no more."""
        last: Chunk | None = None
        if self._arriving is not None:
            self._arriving.cancel()
            await asyncio.wait([self._arriving])
            last = self._take()
        self._end = UploadLost("A newer request goes on with this upload.")
        return last

    def _take(self) -> Chunk | None:
        arrived, self._arriving = self._arriving, None
        try:
            return None if arrived is None else arrived.result()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # raised at the end
            self._end = error
            return None

    async def _pull(self) -> Chunk:
        return await anext(self._chunks)
