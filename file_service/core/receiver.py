"""Receiver: the bytes of one request go to their offset in the upload's one staged file."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from math import inf

from file_service.blobs.store import BlobStore
from file_service.catalogue.uploads import UploadRows
from file_service.core.batches import Batches
from file_service.core.digests import Digests, Summed, check_size
from file_service.core.followed import Followed
from file_service.core.holds import Hold
from file_service.core.room import Room
from file_service.errors import (
    ChecksumMismatch,
    FileServiceError,
    LengthMismatch,
    NotAppendable,
    OffsetMismatch,
    TooLarge,
)
from file_service.models import Append, Checksum, Chunk, Chunks, Stream, Upload
from file_service.tasks import to_its_end

Tell = Callable[[int], Awaitable[None]]
"""Whoever wants to hear of every offset on the way."""


class Receiver:
    """Takes what one request brings for an upload that it holds.

    `max_size` in bytes; each request gives the upload a new `lifetime`.
    """

    def __init__(
        self,
        store: BlobStore,
        rows: UploadRows,
        followed: Followed,
        room: Room,
        *,
        max_size: int | None,
        lifetime: timedelta,
    ) -> None:
        self._store = store
        self._rows = rows
        self._followed = followed
        self._room = room
        self._max_size = max_size
        self._lifetime = lifetime

    async def receive(self, hold: Hold, part: Append, stream: Stream, tell: Tell | None) -> None:
        """Make a stream durable at the upload's offset, which moves with it.

        OffsetMismatch, LengthMismatch, TooLarge, NoRoom where it says what cannot be. What arrives
        before an error is kept; nothing at all, a new length neither, after ChecksumMismatch and
        TooLarge. UploadLost where the hold is wanted by another request.
        """
        before = hold.upload
        await self._declare(hold, part)
        try:
            await hold.run(self._receive(hold, part, stream, tell), stream)
        except (ChecksumMismatch, TooLarge):
            await to_its_end(self._go_back(hold, before))
            raise

    async def advance(self, hold: Hold, offset: int) -> None:
        """Write down how far the upload is: up to there every byte is durable."""
        expires_at = datetime.now(UTC) + self._lifetime
        hold.upload = await self._rows.advance(hold.upload, offset, expires_at=expires_at)

    async def _go_back(self, hold: Hold, before: Upload) -> None:
        """Take back what a request has moved or declared."""
        if hold.upload.offset > before.offset:
            self._followed.forget(before.id)  # or digests of what is gone would be gone on with
        if hold.upload is not before:
            hold.upload = await self._rows.go_back(hold.upload, before)

    async def _declare(self, hold: Hold, part: Append) -> None:
        """Hold what a request says against what is known; write down a length that is new."""
        upload = hold.upload
        if part.offset != upload.offset:
            raise OffsetMismatch(upload.offset, part.offset)
        length = upload.length if part.declared_length is None else part.declared_length
        _check_declared(upload, length)
        if part.contradicts_itself:
            raise LengthMismatch("The last request does not end where it says the upload does.")
        if part.size is not None:
            self._check_end(length, part.offset + part.size)
            if part.is_last and length != part.offset + part.size:
                raise LengthMismatch("The last request does not end where the upload does.")
        if length is not None and upload.length is None:
            check_size(length, self._max_size)
            await self._reserve(hold, length)

    async def _reserve(self, hold: Hold, length: int) -> None:
        """Write down a length that there is room for, also with those written down meanwhile."""
        before = hold.upload
        await self._room.admit(length - before.offset)
        hold.upload = await self._rows.declare(before, length)
        try:
            await self._room.admit(0)
        except FileServiceError:
            await self._go_back(hold, before)
            raise

    async def _receive(self, hold: Hold, part: Append, chunks: Chunks, tell: Tell | None) -> None:
        digests = await self._followed.begin(hold.upload, lambda: hold.is_wanted)
        try:
            if part.checksum is None:
                await self._receive_batches(hold, chunks, digests, tell)
            else:
                digests = await self._receive_whole(hold, part.checksum, chunks, digests)
        finally:
            if digests.offset <= hold.upload.offset:  # else it is ahead of what is durable
                self._followed.remember(hold.upload.id, digests)

    async def _receive_batches(
        self, hold: Hold, chunks: Chunks, digests: Digests, tell: Tell | None
    ) -> None:
        """Write what arrives, and move the offset with every batch."""
        batches = Batches(self._limit(hold.upload, chunks), hold)
        async for batch in batches:
            start = hold.upload.offset
            seen = digests.follow(batch, start)
            offset = await self._store.append(hold.upload.id, start, seen)
            await self.advance(hold, offset)
            if tell is not None and not batches.is_last:
                await tell(offset)

    async def _receive_whole(
        self, hold: Hold, checksum: Checksum, chunks: Chunks, digests: Digests
    ) -> Digests:
        """Write what arrives, and move the offset only once all of it is there and right.

        Else the row never learns of it, and the next holder cuts it off.
        """
        digests = await digests.copy()
        offset = hold.upload.offset
        summed = Summed(chunks, checksum)
        batches = Batches(self._limit(hold.upload, summed), hold, size=inf, seconds=inf)
        async for batch in batches:
            seen = digests.follow(batch, offset)
            offset = await self._store.append(hold.upload.id, offset, seen)
        await self.advance(hold, offset)
        return digests

    async def _limit(self, upload: Upload, chunks: Chunks) -> AsyncGenerator[Chunk, None]:
        """Yield `chunks`, as long as they lie within the upload's length."""
        position = upload.offset
        async for chunk in chunks:
            position += len(chunk)
            self._check_end(upload.length, position)
            yield chunk

    def _check_end(self, length: int | None, end: int) -> None:
        if length is not None and end > length:
            raise TooLarge(f"The upload has a length of {length} bytes.")
        check_size(end, self._max_size)


async def add_nothing(upload: Upload, part: Append, stream: Stream) -> Upload:
    """Take a request that adds nothing to an upload that is finished: an answer may be lost.

    NotAppendable, LengthMismatch, OffsetMismatch, TooLarge for any other.
    """
    if upload.manner.is_final:
        raise NotAppendable("The upload is made of others.")
    _check_declared(upload, part.length)
    if part.offset != upload.offset:
        raise OffsetMismatch(upload.offset, part.offset)
    if part.size or (part.size is None and not await _is_empty(stream)):
        raise TooLarge(f"The upload has all its {upload.offset} bytes.")
    return upload


async def _is_empty(stream: Stream) -> bool:
    async for chunk in stream:
        if chunk:
            return False
    return True


def _check_declared(upload: Upload, length: int | None) -> None:
    """Raise LengthMismatch for a length that cannot be the upload's."""
    if length is None or length == upload.length:
        return
    if upload.length is not None or length < upload.offset:
        raise LengthMismatch("The length is not the one that was declared before.")
