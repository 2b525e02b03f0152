"""Hash, count and cap a stream of chunks as it passes."""

import hashlib
from collections.abc import AsyncIterator

from file_service.errors import TooLarge
from file_service.models import Chunks


class Measured:
    """`chunks`, passed on unchanged while `size` (bytes) and `sha256` (hex) grow with them.

    Raises TooLarge with the chunk that takes the size past `limit`.
    """

    def __init__(self, chunks: Chunks, *, limit: int | None = None) -> None:
        self._chunks = chunks
        self._limit = limit
        self._hash = hashlib.sha256()
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            check_size(self.size, self._limit)
            self._hash.update(chunk)
            yield chunk

    @property
    def sha256(self) -> str:
        """The SHA-256 of what has passed so far."""
        return self._hash.hexdigest()


def check_size(size: int | None, limit: int | None) -> None:
    """Raise TooLarge where a known `size` is over a known `limit`, both in bytes."""
    if size is not None and limit is not None and size > limit:
        raise TooLarge(f"A file may have at most {limit} bytes.")
