"""Files: the one read door, and the way out: the row first, the bytes last."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import BinaryIO, TypeVar

from file_service.blobs.store import BlobStore, Stamp
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.names import is_id
from file_service.errors import BlobMissing, FileNotFound, FileServiceError, Unavailable
from file_service.models import File
from file_service.tasks import to_its_end

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# How long a worker may show a file whose bytes are there without asking the catalogue again.
LEASE_SECONDS = 1.0


class Files:
    """Finds, reads and deletes files; FileNotFound for every id that is not one of a file."""

    def __init__(self, store: BlobStore, catalogue: Catalogue, rows: UploadRows) -> None:
        self._store = store
        self._catalogue = catalogue
        self._rows = rows

    async def get(self, file_id: str) -> File:
        """Return the file of this id."""
        file_id = _check_id(file_id)
        try:
            return await self._catalogue.get_file(file_id)
        except FileNotFound:
            await self._check_absence(file_id)
            # Asked again: the row may have come, and its stage gone, between the two.
            return await self._catalogue.get_file(file_id)

    async def _check_absence(self, file_id: str) -> None:
        """Raise Unavailable where the row may still come: a 404 would be the last word."""
        if await self._is_under_way(file_id):
            raise Unavailable("The file is being stored, or its outcome settled.")

    async def _is_under_way(self, file_id: str) -> bool:
        """Whether there are staged bytes that no client has still to go on with."""
        if not await self._store.has_stage(file_id):
            return False
        return file_id not in await self._rows.find_known([file_id])

    async def open(self, file: File) -> BinaryIO | None:
        """Open the bytes of `file` for sendfile; None where only `read` has them.

        FileNotFound where it was deleted meanwhile.
        """
        return await self._reach(file, self._store.open(file.id, file.size))

    async def load(self, file: File) -> tuple[bytes, Stamp | None]:
        """Return all bytes of a small file, and the stamp that a lease on it needs, if any.

        FileNotFound where it was deleted meanwhile.
        """
        return await self._reach(file, self._store.load(file.id, file.size))

    async def _reach(self, file: File, reading: Awaitable[Result]) -> Result:
        """Await what reads the bytes of `file`; FileNotFound where they are gone with its row."""
        try:
            return await reading
        except BlobMissing:
            await self._catalogue.get_file(file.id)
            raise

    def lease(self, file: File, stamp: Stamp, asked_at: float) -> "Lease":
        """Return a lease on a file whose row was asked for at `asked_at`, by the loop's clock."""
        return Lease(self, self._store, file.id, stamp, asked_at)

    def read(
        self, file: File, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of `file` from `start` up to `stop`; BlobMissing where they are not."""
        return self._store.read(file.id, start, file.size if stop is None else stop)

    async def delete(self, file_id: str) -> None:
        """Make the file of this id not exist, from now on and everywhere."""
        await to_its_end(self._delete(_check_id(file_id)))

    async def _delete(self, file_id: str) -> None:
        try:
            await self._catalogue.remove_file(file_id)
        except FileNotFound:
            await self._check_absence(file_id)
            await self._remove_again(file_id)
        try:
            await self._store.delete(file_id)
            await self._catalogue.drop_removals([file_id])
        except FileServiceError as error:
            # The file is gone for everybody; its note makes upkeep try the bytes again.
            logger.warning("the blob of %s stays for now: %s", file_id, error)
            await asyncio.sleep(LEASE_SECONDS)

    async def _remove_again(self, file_id: str) -> None:
        """Remove a row that has come since; FileNotFound once nobody shows its file any more."""
        try:
            await self._catalogue.remove_file(file_id)
        except FileNotFound:
            if await self._store.has_blob(file_id):  # another DELETE is at it, or left it
                await asyncio.sleep(LEASE_SECONDS)
            raise


class Lease:
    """A file that may be shown without asking the catalogue, as long as its bytes are there.

    Good for LEASE_SECONDS after its row was asked for, and renewed while it is used. A deletion
    that cannot take the bytes away waits as long.
    """

    def __init__(
        self, files: Files, store: BlobStore, file_id: str, stamp: Stamp, asked_at: float
    ) -> None:
        self._files = files
        self._store = store
        self._file_id = file_id  # alone: what its client said of it may be large
        self._stamp = stamp
        self._asked_at = asked_at
        self._renewal: asyncio.Task[None] | None = None

    def is_good(self) -> bool:
        """Whether nobody has deleted the file: its row is young, and its bytes are the same."""
        age = asyncio.get_running_loop().time() - self._asked_at
        if age > LEASE_SECONDS or self._store.stamp(self._file_id) != self._stamp:
            return False
        if age > LEASE_SECONDS / 2 and self._renewal is None:
            # Else all who want it would ask for its row at the same moment.
            self._renewal = asyncio.create_task(self._renew())
        return True

    async def _renew(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            await self._files.get(self._file_id)
        except FileServiceError:
            return  # it ends by itself, and whoever comes then is told why
        self._asked_at = asked_at
        self._renewal = None


def _check_id(file_id: str) -> str:
    if not is_id(file_id):
        raise FileNotFound("A file's id is a lower-case UUID of version 4.")
    return file_id
