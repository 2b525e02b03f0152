"""Files: the one read door, and the way out: the row first, the bytes last."""

import re
from collections.abc import AsyncGenerator

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.errors import FileNotFound
from file_service.models import File

# RFC 9562 §5.4, lower case: version 4, variant 10.
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)


class Files:
    """Finds, reads and deletes files; FileNotFound for every id that is not one of a file."""

    def __init__(self, store: BlobStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue

    async def get(self, file_id: str) -> File:
        """Return the file of this id."""
        return await self._catalogue.get_file(_check_id(file_id))

    def read(
        self, file: File, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of `file` from `start` up to `stop`; BlobMissing where they are not."""
        return self._store.read(file.id, start, file.size if stop is None else stop)

    async def delete(self, file_id: str) -> None:
        """Make the file of this id not exist, from now on and everywhere."""
        await self._catalogue.delete_file(_check_id(file_id))
        await self._store.delete(file_id)


def _check_id(file_id: str) -> str:
    if _ID.fullmatch(file_id) is None:
        raise FileNotFound("A file's id is a lower-case UUID of version 4.")
    return file_id
