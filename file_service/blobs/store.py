"""BlobStore: the contract that every store of bytes keeps."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from enum import IntEnum
from typing import BinaryIO, Protocol

from file_service.models import BlobInfo, Chunks

Stamp = tuple[int, ...]
"""Stays the same as long as nobody, in whatever process, has changed a blob or taken it away."""


class Grip(IntEnum):
    """How the stage that was to be held was met; false where it was not to be had."""

    NONE = 0
    FOUND = 1
    MADE = 2


class BlobStore(Protocol):
    """Immutable bytes by key; knows nothing of names, owners or HTTP.

    A key is a file's id. Errors: NoRoom, StoreUnavailable, and BlobMissing on reading.
    """

    # ── writing: staged bytes are invisible until committed ──

    async def admit(self, length: int | None, *, is_put: bool = False) -> None:
        """Raise NoRoom or StoreUnavailable where an upload of `length` bytes cannot succeed.

        By what was known a moment ago, where it `is_put`: that looks for itself.
        """

    async def append(self, key: str, offset: int, chunks: Chunks) -> int:
        """Write `chunks` to the stage of `key` at `offset`; return its durable length in bytes.

        The stage is made where there is none, and held by this process until it is discarded or
        released. An error leaves it as it is, and final for those chunks.
        """

    async def hold(self, key: str) -> Grip:
        """Hold the stage of `key`, made where there is none; NONE where somebody holds it."""

    async def truncate(self, key: str, offset: int) -> None:
        """Cut a stage held to `offset` bytes, durably; BlobMissing where it has fewer."""

    async def concatenate(self, key: str, parts: Sequence[tuple[str, int]]) -> int:
        """Append stages, each a key and a length in bytes, to that of `key`, which is held.

        Return its durable length; BlobMissing where one has gone, or has fewer bytes. They do not
        pass through the process.
        """

    async def commit(self, key: str) -> None:
        """Make the staged bytes the blob, atomically and durably; the stage stays held.

        Again is harmless.
        """

    async def put(self, key: str, content: bytes) -> None:
        """Make `content` the blob of `key`: as `append` and `commit` do, with the same promises."""

    async def discard(self, key: str) -> bool:
        """Forget the stage and let it go; return whether it was still there."""

    async def release(self, key: str) -> None:
        """Let the stage go and leave its bytes to whoever takes it over."""

    async def take_over(self, key: str) -> bool:
        """Hold a stage that no living process holds; False where one does, or it is gone."""

    # ── reading: a committed blob never changes ──

    def read(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` up to `stop`; BlobMissing where there are fewer."""

    def read_staged(self, key: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes of a stage; BlobMissing where there are fewer."""

    async def open(self, key: str, size: int) -> BinaryIO | None:
        """Return the blob of `size` bytes as an open file; None where the bytes are elsewhere.

        BlobMissing where it has another size.
        """

    async def load(self, key: str, size: int) -> tuple[bytes, Stamp | None]:
        """Return all of a small blob, and its stamp; BlobMissing where it has another size.

        The stamp is None where the store cannot tell at once whether a blob has changed.
        """

    def stamp(self, key: str) -> Stamp | None:
        """Return the blob's stamp as it is now, without waiting; None where it is gone."""

    async def get_size(self, key: str) -> int:
        """Return how many bytes the blob has; BlobMissing where there is none."""

    # ── upkeep ──

    async def delete(self, key: str) -> None:
        """Remove the blob, durably; absent is success."""

    async def quarantine(self, key: str, why: str) -> None:
        """Put the blob out of every reader's way, for a person to look at."""

    async def tidy(self) -> None:
        """Remove what a crash left of stages in the making."""

    def blobs(self) -> AsyncIterator[BlobInfo]:
        """Yield every committed blob."""

    def stages(self) -> AsyncIterator[BlobInfo]:
        """Yield every stage, held or not."""

    async def has_stage(self, key: str) -> bool:
        """Whether bytes of this key are still staged."""

    async def has_blob(self, key: str) -> bool:
        """Whether there are still bytes of this key, sound or not."""

    async def check(self) -> None:
        """Raise NoRoom or StoreUnavailable, saying why, unless files can be written now."""
