"""A chunk is seen while it is written: both come to their end, whatever happens to the other."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from file_service.blobs import disk
from file_service.blobs.disk import SHARED

LARGE = bytes(range(256)) * (2 * SHARED // 256)
SIZES = [0, 1, SHARED - 1, SHARED, len(LARGE)]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "stage").open("w+b", buffering=0) as opened:
        yield opened


@pytest.mark.parametrize("size", SIZES)
async def test_chunks_of_every_size_are_written_and_seen_in_order(
    file: BinaryIO, tmp_path: Path, size: int
) -> None:
    seen = hashlib.sha256()
    chunks = [LARGE[:size], LARGE[-size:], b"end"]
    offset = 0
    for chunk in chunks:
        await disk.write(file, chunk, offset, seen.update)
        offset += len(chunk)
    content = b"".join(chunks)
    assert (tmp_path / "stage").read_bytes() == content
    assert seen.digest() == hashlib.sha256(content).digest()


async def test_a_chunk_that_cannot_be_written_is_no_longer_looked_at_afterwards(
    tmp_path: Path,
) -> None:
    """Its buffer is used again: what still read it would hash another one's bytes."""
    (tmp_path / "stage").touch()
    may_go_on, is_over = threading.Event(), threading.Event()

    def see(_chunk: object) -> None:
        threading.Timer(0.1, may_go_on.set).start()
        assert may_go_on.wait(10)
        is_over.set()

    with (tmp_path / "stage").open("rb", buffering=0) as read_only:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await disk.write(read_only, LARGE, 0, see)
        assert is_over.is_set()


@pytest.mark.parametrize("size", SIZES)
async def test_what_goes_wrong_in_looking_at_a_chunk_is_raised(file: BinaryIO, size: int) -> None:
    def see(_chunk: object) -> None:
        raise ValueError("seen wrong")

    with pytest.raises(ValueError, match="seen wrong"):
        await disk.write(file, LARGE[:size], 0, see)
