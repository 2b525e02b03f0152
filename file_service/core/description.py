"""What a new file is called and known by: what its client says of it, and what its bytes tell."""

from datetime import UTC, datetime

from file_service.core.digests import Digests
from file_service.core.names import guess_media_type
from file_service.models import File, NewUpload


def describe(file_id: str, new: NewUpload, digests: Digests) -> File:
    """Return the file of an upload whose bytes are those of `digests`, which are settled."""
    name = new.name or file_id
    known = digests.in_hex()
    return File(
        id=file_id,
        name=name,
        size=digests.offset,
        media_type=new.media_type or guess_media_type(name),
        sha256=known["sha-256"],
        sha512=known.get("sha-512"),
        created_at=datetime.now(UTC),
        metadata=new.metadata,
    )
