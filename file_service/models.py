"""The plain, frozen values that travel between the rooms; no I/O."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

Chunks = AsyncIterable[bytes]
"""The joint of every data path: a request's body, a form part, a blob."""

Parts = AsyncIterator["tuple[NewUpload, Chunks]"]
"""Files that arrive in one request, each to be read to its end before the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """What a client says about a file before its bytes arrive; None is left to the service."""

    name: str | None = None
    media_type: str | None = None
    length: int | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    # By RFC 9530's names of algorithms: what the bytes must hash to, and what is to be kept.
    digests: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    wanted_digests: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What users have: a name and immutable bytes. `size` in bytes, digests in hex."""

    id: str
    name: str
    size: int
    media_type: str
    sha256: str
    created_at: datetime
    metadata: Mapping[str, str]
    sha512: str | None = None

    @property
    def digests(self) -> dict[str, str]:
        """The digests that are known, in hex, by RFC 9530's names."""
        known = {"sha-256": self.sha256, "sha-512": self.sha512}
        return {name: digest for name, digest in known.items() if digest is not None}


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One blob or stage as the store sees it while walking: `size` in bytes."""

    key: str
    size: int
    modified_at: datetime
