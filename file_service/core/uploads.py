"""Uploads: the one write door. Bytes first, the row last."""

import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.description import describe
from file_service.core.digests import Measured, check_size
from file_service.core.room import Room
from file_service.core.upkeep import Upkeep
from file_service.errors import FileServiceError, Malformed, OutcomeUnknown, StoreUnavailable
from file_service.models import Chunks, File, NewUpload, Parts
from file_service.tasks import to_its_end

logger = logging.getLogger(__name__)

# Files no longer than this, in bytes, are put whole where they have arrived with their request;
# of others the stage is made first, so that a disk in trouble is told of before the body is sent.
SMALL = 64 * 1024


class Uploads:
    """Makes files out of streams; a file of more than `max_size` bytes is refused."""

    def __init__(
        self,
        store: BlobStore,
        catalogue: Catalogue,
        rows: UploadRows,
        upkeep: Upkeep,
        *,
        max_size: int | None = None,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._room = Room(store, rows)
        self._upkeep = upkeep
        self._max_size = max_size

    async def store(self, new: NewUpload, chunks: Chunks) -> File:
        """Store one file and return it; once it is returned it is durable and visible.

        Raises TooLarge, NoRoom or Unavailable before the first byte where that can be known, and
        whatever `chunks` raises; then nothing is left behind. After OutcomeUnknown alone the file
        exists wholly or not at all.
        """

        async def one() -> AsyncIterator[tuple[NewUpload, Chunks]]:
            yield new, chunks

        check_size(new.length, self._max_size)
        return (await self.store_all(one(), length=new.length, is_put=_is_small(new)))[0]

    async def store_all(
        self, parts: Parts, *, length: int | None = None, is_put: bool = False
    ) -> list[File]:
        """Store every file of `parts`, all or none; Malformed where there is none.

        `length` is what is known beforehand of their bytes together; they are small and at hand
        where it `is_put`.
        """
        await self._catalogue.admit()
        await self._room.admit(length, is_put=is_put)
        batch = _Batch(self._store, self._catalogue, self._max_size)
        try:
            async for new, chunks in parts:
                await batch.stage(new, chunks)
        except BaseException:
            await to_its_end(batch.roll_back())
            raise
        # From here on nothing waits for a client: it goes through even while we are stopped.
        await to_its_end(self._publish(batch))
        return batch.files

    async def _publish(self, batch: "_Batch") -> None:
        try:
            await batch.publish()
        except OutcomeUnknown:
            await batch.leave()
            self._upkeep.settle_soon()
            raise
        except BaseException:
            await batch.roll_back()
            raise
        await batch.clear()


class _Batch:
    """The files of one request on their way in: staged, published, or rolled back together."""

    def __init__(self, store: BlobStore, catalogue: Catalogue, max_size: int | None) -> None:
        self.files: list[File] = []
        self._store = store
        self._catalogue = catalogue
        self._max_size = max_size
        self._contents: dict[str, bytes] = {}
        self._staged: list[str] = []
        self._committed: list[str] = []

    async def stage(self, new: NewUpload, chunks: Chunks) -> None:
        """Write one file's bytes to the stage, durably, or keep them if they are few."""
        check_size(new.length, self._max_size)
        key = str(uuid4())
        measured = Measured(
            chunks, limit=self._max_size, expected=new.digests, wanted=new.wanted_digests
        )
        if _is_small(new):
            self._contents[key] = await _gather(measured)
        else:
            self._staged.append(key)
            await self._store.append(key, 0, measured)
        self.files.append(describe(key, new, measured.digests))

    async def publish(self) -> None:
        """Commit every blob, then make all the files exist by one transaction."""
        if not self.files:
            raise Malformed("The form has no part with a file name.")
        for file in self.files:
            self._committed.append(file.id)  # before: it may fail with the link made
            if file.id in self._contents:
                self._staged.append(file.id)
                await self._store.put(file.id, self._contents[file.id])
            else:
                await self._store.commit(file.id)
        await self._catalogue.add_files(self.files)

    async def clear(self) -> None:
        """Drop the stages of files that exist; one that cannot be dropped is left to upkeep.

        A stage that is gone already was taken for a dead process's. Where its blob went with it,
        the files are taken back: StoreUnavailable.
        """
        for key in self._staged:
            try:
                is_whole = await self._store.discard(key) or await self._store.has_blob(key)
            except FileServiceError as error:
                logger.warning("the stage of %s stays for now: %s", key, error)
                await self.leave()
                return
            if not is_whole:
                await self._take_back()

    async def _take_back(self) -> None:
        for file in self.files:
            await self._catalogue.remove_file(file.id)
        raise StoreUnavailable("The upload was taken for one of a dead process, and settled.")

    async def leave(self) -> None:
        """Let every stage go as it is: upkeep settles it against the catalogue."""
        for key in self._staged:
            with suppress(FileServiceError):
                await self._store.release(key)

    async def roll_back(self) -> None:
        """Take everything away again; what cannot be is left to upkeep, which finds its stage."""
        try:
            for key in self._committed:
                await self._store.delete(key)
            for key in self._staged:
                await self._store.discard(key)
        except FileServiceError as error:
            logger.warning("an upload could not be rolled back yet: %s", error)
            await self.leave()


def _is_small(new: NewUpload) -> bool:
    return new.is_at_hand and new.length is not None and new.length <= SMALL


async def _gather(measured: Measured) -> bytes:
    """Return all of a small body."""
    content = bytearray()
    async for chunk in measured:
        content += chunk
    return bytes(content)
