"""Hash, count, cap and verify a stream of chunks as it passes."""

import hashlib
import zlib
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from file_service.core.hashing import Hashing
from file_service.errors import ChecksumMismatch, DigestMismatch, TooLarge
from file_service.models import Checksum, Chunk, Chunks

# RFC 9530 §7.2: the active algorithms, by the names that hashlib has for them.
ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}


class Digests:
    """SHA-256 and other digests of the first `offset` bytes of something that grows.

    They lag behind the chunks that pass: `settle` before they are asked for.
    """

    def __init__(self, algorithms: Collection[str] = ()) -> None:
        self.offset = 0
        self._hashes = {name: hashlib.new(ALGORITHMS[name]) for name in {"sha-256", *algorithms}}
        self._hashing = Hashing(self._update)

    async def follow(self, chunks: Chunks, offset: int | None = None) -> AsyncIterator[Chunk]:
        """Yield `chunks`, and take them in; not where they begin at another `offset` than ours."""
        if offset is not None and offset != self.offset:
            async for chunk in chunks:
                yield chunk
            return
        async for chunk in self._hashing.follow(self._count(chunks)):
            yield chunk

    async def _count(self, chunks: Chunks) -> AsyncIterator[Chunk]:
        """Count each chunk before it is hashed: where that fails, the offset tells."""
        async for chunk in chunks:
            self.offset += len(chunk)
            yield chunk

    @property
    def is_broken(self) -> bool:
        """Whether these can never be the digests of all that has passed."""
        return self._hashing.is_broken

    async def settle(self) -> None:
        """Wait until all that has passed is hashed."""
        await self._hashing.settle()

    async def copy(self) -> "Digests":
        """Return the same digests, to go on from here once more."""
        await self.settle()
        other = Digests()
        other.offset = self.offset
        other._hashes = {name: each.copy() for name, each in self._hashes.items()}
        return other

    def in_hex(self) -> dict[str, str]:
        """Return the digests in hex, by the names of their algorithms."""
        return {name: each.hexdigest() for name, each in self._hashes.items()}

    def verify(self, expected: Mapping[str, bytes]) -> None:
        """Raise DigestMismatch unless the bytes are those `expected`."""
        known = self.in_hex()
        for name, digest in expected.items():
            if known[name] != digest.hex():
                raise DigestMismatch(name)

    def _update(self, chunk: Chunk) -> None:
        for each in self._hashes.values():
            each.update(chunk)


class Measured:
    """`chunks`, passed on unchanged while their `digests` grow with them, and are verified.

    Those are SHA-256 and every other algorithm (a key of ALGORITHMS) that is wanted or expected;
    all are settled at the end. Raises TooLarge with the chunk that takes their size past `limit`
    (bytes), DigestMismatch at the end of chunks that are not those `expected`.
    """

    def __init__(
        self,
        chunks: Chunks,
        *,
        limit: int | None = None,
        expected: Mapping[str, bytes] | None = None,
        wanted: Collection[str] = (),
    ) -> None:
        self._chunks = chunks
        self._limit = limit
        self._expected = expected or {}
        self.digests = Digests({*wanted, *self._expected})

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async for chunk in self.digests.follow(self._cap()):
            yield chunk
        await self.digests.settle()
        self.digests.verify(self._expected)

    async def _cap(self) -> AsyncIterator[Chunk]:
        async for chunk in self._chunks:
            check_size(self.digests.offset + len(chunk), self._limit)
            yield chunk


def check_size(size: int | None, limit: int | None) -> None:
    """Raise TooLarge where a known `size` is over a known `limit`, both in bytes."""
    if size is not None and limit is not None and size > limit:
        raise TooLarge(f"A file may have at most {limit} bytes.")


class _Crc32:
    """zlib's CRC-32 in the manner of hashlib; four bytes, the highest first."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, chunk: Chunk) -> None:
        self._value = zlib.crc32(chunk, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4)


# tus 1.0, extension checksum: sha1 is the one that every server must have.
CHECKSUMS = ("sha1", "md5", "sha256", "sha512", "crc32")


class Summed:
    """The chunks of one request, passed on unchanged, and ChecksumMismatch at a wrong end."""

    def __init__(self, chunks: Chunks, checksum: Checksum) -> None:
        self._chunks = chunks
        self._checksum = checksum
        algorithm = checksum.algorithm
        self._sum: Any = (
            _Crc32() if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)
        )

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        hashing = Hashing(self._sum.update)
        async for chunk in hashing.follow(self._chunks):
            yield chunk
        await hashing.settle()
        if self._sum.digest() != self._checksum.value:
            raise ChecksumMismatch(f"The {self._checksum.algorithm} of the bytes is another one.")
