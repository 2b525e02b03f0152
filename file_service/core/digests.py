"""Hash, count, cap and verify a stream of chunks as it passes."""

import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

from file_service.errors import ChecksumMismatch, DigestMismatch, TooLarge
from file_service.models import Checksum, Chunk, Chunks

# RFC 9530 §7.2: the active algorithms, by the names that hashlib has for them.
ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}


class Measured:
    """`chunks`, passed on unchanged while `size` (bytes) grows with them, and digests are verified.

    `update` has to see each of them before the next one is asked for: a thread hashes a chunk while
    another one writes it. Computes SHA-256, and every other algorithm (a key of ALGORITHMS) that is
    wanted or expected. Raises TooLarge with the chunk that takes the size past `limit`,
    DigestMismatch at the end of chunks that are not those `expected`.
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
        names = {"sha-256", *wanted, *self._expected}
        self._hashes = {name: hashlib.new(ALGORITHMS[name]) for name in names}
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            check_size(self.size, self._limit)
            yield chunk
        self._verify()

    def update(self, chunk: Chunk) -> None:
        """Hash the next chunk."""
        for each in self._hashes.values():
            each.update(chunk)

    def hexdigest(self, algorithm: str) -> str | None:
        """Return a digest of what has passed in hex, None for one that was not asked for."""
        found = self._hashes.get(algorithm)
        return None if found is None else found.hexdigest()

    def _verify(self) -> None:
        for name, digest in self._expected.items():
            if self._hashes[name].digest() != digest:
                raise DigestMismatch(name)


def check_size(size: int | None, limit: int | None) -> None:
    """Raise TooLarge where a known `size` is over a known `limit`, both in bytes."""
    if size is not None and limit is not None and size > limit:
        raise TooLarge(f"A file may have at most {limit} bytes.")


class Followed:
    """The digests of an upload as it grows over many requests: of its bytes up to `offset`.

    Chunks that pass in order cost no second reading; what passed elsewhere is read from the stage.
    """

    def __init__(self, algorithms: Collection[str]) -> None:
        self.offset = 0
        self._hashes = {name: hashlib.new(ALGORITHMS[name]) for name in {"sha-256", *algorithms}}

    def update(self, chunk: Chunk) -> None:
        """Take in the next chunk."""
        self.offset += len(chunk)
        for each in self._hashes.values():
            each.update(chunk)

    def begin(self, offset: int) -> Callable[[Chunk], None]:
        """Return what takes in chunks from `offset` on, where that is the next one."""
        return self.update if offset == self.offset else _pass

    def copy(self) -> "Followed":
        """Return the same digests, to go on from here once more."""
        other = Followed(())
        other.offset = self.offset
        other._hashes = {name: each.copy() for name, each in self._hashes.items()}
        return other

    def hexdigest(self, algorithm: str) -> str | None:
        """Return the digest of the bytes up to `offset` in hex, None for one not asked for."""
        found = self._hashes.get(algorithm)
        return None if found is None else found.hexdigest()

    def verify(self, expected: Mapping[str, bytes]) -> None:
        """Raise DigestMismatch unless the bytes up to `offset` are those `expected`."""
        for name, digest in expected.items():
            if self.hexdigest(name) != digest.hex():
                raise DigestMismatch(name)


def _pass(_chunk: Chunk) -> None:
    """See a chunk, and keep nothing of it."""


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
    """The chunks of one request, passed on unchanged, and ChecksumMismatch at a wrong end.

    As with Measured, `update` has to see each of them.
    """

    def __init__(self, chunks: Chunks, checksum: Checksum) -> None:
        self._chunks = chunks
        self._checksum = checksum
        algorithm = checksum.algorithm
        self._sum: Any = (
            _Crc32() if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)
        )

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async for chunk in self._chunks:
            yield chunk
        if self._sum.digest() != self._checksum.value:
            raise ChecksumMismatch(f"The {self._checksum.algorithm} of the bytes is another one.")

    def update(self, chunk: Chunk) -> None:
        """Sum up the next chunk."""
        self._sum.update(chunk)
