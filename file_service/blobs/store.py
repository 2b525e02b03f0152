"""BlobStore: the contract that every store of bytes keeps."""

from collections.abc import AsyncGenerator
from typing import Protocol

from file_service.models import Chunks


class BlobStore(Protocol):
    """Immutable bytes by key; knows nothing of names, owners or HTTP.

    A key is a file's id. Errors: NoRoom, StoreUnavailable, and BlobMissing on reading.
    """

    async def append(self, key: str, offset: int, chunks: Chunks) -> int:
        """Write `chunks` to the stage of `key` at `offset`; return its durable length in bytes.

        The stage is made where there is none. It is held by this process until it is discarded.
        """

    async def commit(self, key: str) -> None:
        """Make the staged bytes the blob, atomically and durably; the stage stays held."""

    async def discard(self, key: str) -> None:
        """Forget the stage and let it go; absent is success."""

    def read(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` up to `stop`; BlobMissing where there are fewer."""

    async def delete(self, key: str) -> None:
        """Remove the blob; absent is success."""

    async def check(self) -> None:
        """Raise StoreUnavailable, saying why, unless bytes can be written and read now."""
