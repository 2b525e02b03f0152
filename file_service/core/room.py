"""Room: what the disk has left, less what has been promised to uploads in many requests."""

from file_service.blobs.store import BlobStore
from file_service.catalogue.uploads import UploadRows


class Room:
    """Grants room for bytes that are to come."""

    def __init__(self, store: BlobStore, rows: UploadRows) -> None:
        self._store = store
        self._rows = rows

    async def admit(self, size: int | None, *, is_put: bool = False) -> None:
        """Raise NoRoom or Unavailable where `size` more bytes cannot be taken.

        What others have declared, and not sent yet, is theirs; a small file that `is_put` takes too
        little of it to be worth a query.
        """
        reserved = 0 if is_put else await self._rows.sum_reserved()
        await self._store.admit((size or 0) + reserved, is_put=is_put)
