"""The plain, frozen values that travel between the rooms; no I/O."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

Chunk = bytes | memoryview
"""Bytes on their way through the house, to be used before the next ones are asked for.

Whoever needs them longer takes a view of its own, `memoryview(chunk)`: bytes of which there is any
view are written by nobody.
"""

Chunks = AsyncIterable[Chunk]
"""The joint of every data path: a request's body, a form part, a blob."""


class Stream(Protocol):
    """Chunks that arrive at their sender's pace."""

    def __aiter__(self) -> AsyncIterator[Chunk]: ...

    def nudge(self) -> None:
        """Have what has arrived come at once: an empty chunk, where nothing has."""
        ...


TUS, IETF = "tus", "ietf"
"""The dialects of resumable uploads: tus 1.0 and the IETF draft."""

OLDER = (5, 6)
"""Versions of the draft whose clients take an upload for complete once its length is reached."""

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
    is_at_hand: bool = False  # whether all its bytes have arrived already


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How an upload was created, which is how it has to be spoken of until its end.

    `dialect` is "tus" or "ietf", `interop` the draft's version. `sent_metadata` comes back byte for
    byte; `concat` is tus's "partial" or "final;…".
    """

    dialect: str
    interop: int | None = None
    sent_metadata: str | None = None
    concat: str | None = None

    @property
    def is_partial(self) -> bool:
        """Whether it is a part that never becomes a file by itself."""
        return self.concat == "partial"

    @property
    def ends_at_length(self) -> bool:
        """Whether the last byte of a known length ends it, and no word of the client's has to."""
        return self.dialect == TUS or self.interop in OLDER

    @property
    def is_final(self) -> bool:
        """Whether it is made of parts, and takes no bytes of its own."""
        return self.concat is not None and not self.is_partial


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file in the making: `offset` durable bytes of `length`, which is None until declared.

    Once it is finished, it is the file of the same id, or a part. `fence` grows with each holder.
    """

    id: str
    new: NewUpload
    manner: Manner
    offset: int
    created_at: datetime
    expires_at: datetime
    is_finished: bool = False
    is_held: bool = False
    fence: int = 0

    @property
    def length(self) -> int | None:
        """How many bytes it will have, None until declared."""
        return self.new.length

    @property
    def is_whole(self) -> bool:
        """Whether every byte that was declared is there."""
        return self.offset == self.length

    @property
    def is_complete(self) -> bool:
        """Whether nothing more has to come; a client of the newer draft says so itself."""
        return self.is_whole and self.manner.ends_at_length


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """What the bytes of one request must sum to, by one of tus's algorithms."""

    algorithm: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """What a request says of the bytes it adds to an upload.

    `size` of its body, None where that is not known before; `length` of the whole upload, where it
    says so; `is_last` where the upload is to be finished with it.
    """

    offset: int
    size: int | None = None
    length: int | None = None
    is_last: bool = False
    checksum: Checksum | None = None

    @property
    def contradicts_itself(self) -> bool:
        """Whether it is the last, and brings another number of bytes than its length says."""
        if self.length is None or self.size is None:
            return False
        return self.is_last and self.offset + self.size != self.length

    @property
    def declared_length(self) -> int | None:
        """What the whole upload will have by this request's word."""
        if self.length is None and self.is_last and self.size is not None:
            return self.offset + self.size
        return self.length


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One blob or stage as the store sees it while walking: `size` in bytes."""

    key: str
    size: int
    modified_at: datetime
