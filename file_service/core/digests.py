"""Hash, count, cap and verify a stream of chunks as it passes."""

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping

from file_service.errors import DigestMismatch, TooLarge
from file_service.models import Chunks

# RFC 9530 §7.2: the active algorithms, by the names that hashlib has for them.
ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}


class Measured:
    """`chunks`, passed on unchanged while `size` (bytes) and the digests grow with them.

    Always computes SHA-256, and every other algorithm (a key of ALGORITHMS) that is wanted or
    expected. Raises TooLarge with the chunk that takes the size past `limit`, DigestMismatch at the
    end of chunks that are not those `expected`.
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

    async def __aiter__(self) -> AsyncIterator[bytes]:
        hashes = self._hashes.values()
        async for chunk in self._chunks:
            self.size += len(chunk)
            check_size(self.size, self._limit)
            for each in hashes:
                each.update(chunk)
            yield chunk
        self._verify()

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
