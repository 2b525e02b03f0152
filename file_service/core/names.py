"""Which ids and names a file may have, and what a name tells about its media type."""

import mimetypes
import re
import unicodedata
from pathlib import PurePosixPath

from file_service.errors import BadName

LONGEST_NAME = 255
"""In characters: what the common file systems allow, whatever their encoding."""

OCTETS = "application/octet-stream"

# RFC 9562 §5.4, lower case: version 4, variant 10.
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)

_SEPARATORS = re.compile(r"[/\\]")

# Python's own table, not the machine's: the guess is the same everywhere.
_TYPES = {
    **mimetypes.MimeTypes().types_map[True],
    ".7z": "application/x-7z-compressed",
    ".avif": "image/avif",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".heic": "image/heic",
    ".md": "text/markdown",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".ogg": "audio/ogg",
    ".parquet": "application/vnd.apache.parquet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".tgz": "application/gzip",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zst": "application/zstd",
}


def is_id(text: str) -> bool:
    """Whether `text` is spelt as the id of a file."""
    return _ID.fullmatch(text) is not None


def parse_name(text: str) -> str | None:
    """Return the file name in `text`, None where it is empty; BadName for what no file may have.

    A client may send a path: its last segment is the name (RFC 6266 §4.3, RFC 7578 §4.2).
    """
    segments = _SEPARATORS.split(text)
    if ".." in segments or segments[-1] == ".":
        raise BadName("The file name must not contain the path segment '..' or be '.'.")
    name = segments[-1]
    if len(name) > LONGEST_NAME:
        raise BadName(
            f"The file name has {len(name)} characters; at most {LONGEST_NAME} are allowed."
        )
    # Cc: control characters, NUL, CR and LF among them. Cs: lone surrogates, which no UTF-8 has.
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise BadName("The file name must not contain control characters.")
    return name or None


def guess_media_type(name: str) -> str:
    """Return the media type that the last extension of `name` stands for."""
    return _TYPES.get(PurePosixPath(name).suffix.lower(), OCTETS)
