"""What schemathesis has to know of media types that are ours: their bodies are any bytes."""

import schemathesis
from hypothesis import strategies as st

TYPES = ("application/offset+octet-stream", "application/partial-upload")

for media_type in TYPES:
    schemathesis.openapi.media_type(media_type, st.binary(max_size=1000))


@schemathesis.serializer(*TYPES)
def write_bytes(_context: schemathesis.SerializationContext, value: object) -> bytes:
    """Send the bytes as they are."""
    return value if isinstance(value, bytes) else str(value).encode()
