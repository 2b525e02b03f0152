"""Uploads: the one write door. Bytes first, the row last."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.core.digests import Measured, check_size
from file_service.core.names import guess_media_type
from file_service.errors import Malformed, OutcomeUnknown
from file_service.models import Chunks, File, NewUpload, Parts


class Uploads:
    """Makes files out of streams; a file of more than `max_size` bytes is refused."""

    def __init__(
        self, store: BlobStore, catalogue: Catalogue, *, max_size: int | None = None
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._max_size = max_size

    async def store(self, new: NewUpload, chunks: Chunks) -> File:
        """Store one file and return it; once it is returned it is durable and visible.

        Raises TooLarge before the first byte where the declared length tells, and whatever
        `chunks` raises; then nothing is left behind.
        """

        async def one() -> AsyncIterator[tuple[NewUpload, Chunks]]:
            yield new, chunks

        return (await self.store_all(one()))[0]

    async def store_all(self, parts: Parts) -> list[File]:
        """Store every file of `parts`, all or none; Malformed where there is none."""
        files: list[File] = []
        keys: list[str] = []
        committed: list[str] = []
        try:
            async for new, chunks in parts:
                keys.append(str(uuid4()))
                files.append(await self._stage(keys[-1], new, chunks))
            _check_any(files)
            for key in keys:
                await self._store.commit(key)
                committed.append(key)
            await self._catalogue.add_files(files)
        except OutcomeUnknown:
            raise  # nothing is deleted on a guess: stage and blob stay until it is settled
        except BaseException:
            await self._roll_back(keys, committed)
            raise
        for key in keys:
            await self._store.discard(key)
        return files

    async def _stage(self, key: str, new: NewUpload, chunks: Chunks) -> File:
        check_size(new.length, self._max_size)
        measured = Measured(chunks, limit=self._max_size)
        await self._store.append(key, 0, measured)
        name = new.name or key
        return File(
            id=key,
            name=name,
            size=measured.size,
            media_type=new.media_type or guess_media_type(name),
            sha256=measured.sha256,
            created_at=datetime.now(UTC),
            metadata=new.metadata,
        )

    async def _roll_back(self, staged: list[str], committed: list[str]) -> None:
        for key in committed:
            await self._store.delete(key)
        for key in staged:
            await self._store.discard(key)


def _check_any(files: list[File]) -> None:
    if not files:
        raise Malformed("The form has no part with a file name.")
