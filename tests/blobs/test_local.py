import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from file_service.blobs import folder as folders
from file_service.blobs.local import LocalStore
from file_service.errors import BlobMissing, NoRoom, StoreUnavailable


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size`: a real error of a real write."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


async def test_a_blob_lies_under_its_key_once_committed(store: LocalStore, tmp_path: Path) -> None:
    key = str(uuid4())
    await store.append(key, 0, stream(b"x"))
    assert (tmp_path / "files/staging" / key).is_file()
    await store.commit(key)
    await store.discard(key)
    blob = tmp_path / "files/blobs" / key[:2] / key
    assert blob.read_bytes() == b"x"
    assert list((tmp_path / "files/staging").iterdir()) == []


async def test_folders_and_blobs_are_closed_to_others(store: LocalStore, tmp_path: Path) -> None:
    key = str(uuid4())
    await store.append(key, 0, stream(b"x"))
    await store.commit(key)
    for path in (tmp_path / "files").rglob("*"):
        assert path.stat().st_mode & 0o007 == 0


async def test_a_file_too_large_for_the_system_is_no_room(store: LocalStore) -> None:
    """caio tells of a failed write by a SystemError without a number; it must not stay one."""
    key = str(uuid4())
    with largest_file(100_000), pytest.raises(NoRoom):
        await store.append(key, 0, stream(b"x" * 200_000))
    await store.discard(key)


async def test_descriptors_do_not_leak(store: LocalStore) -> None:
    async def once() -> None:
        key = str(uuid4())
        await store.append(key, 0, stream(b"x" * 1000))
        await store.commit(key)
        await store.discard(key)
        assert [chunk async for chunk in store.read(key)] == [b"x" * 1000]
        unread = store.read(key)
        await anext(unread)
        await unread.aclose()
        with pytest.raises(BlobMissing):
            await anext(store.read(str(uuid4())))

    await once()
    before = descriptors()
    for _ in range(20):
        await once()
    assert descriptors() == before


async def test_two_stores_never_write_one_stage(store: LocalStore, tmp_path: Path) -> None:
    other = LocalStore(tmp_path / "files", chunk=1024, identity=folders.prepare(tmp_path / "files"))
    key = str(uuid4())
    await store.append(key, 0, stream(b"mine"))
    with pytest.raises(StoreUnavailable):
        await other.append(key, 0, stream(b"theirs"))
    await store.commit(key)
    assert [chunk async for chunk in store.read(key)] == [b"mine"]
    await other.close()


async def test_stages_leave_descriptors_to_those_who_read(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_most_held", 2)
    keys = [str(uuid4()) for _ in range(3)]
    for key in keys[:2]:
        await store.append(key, 0, stream(b"x"))
    with pytest.raises(StoreUnavailable):
        await store.append(keys[2], 0, stream(b"x"))
    await store.append(keys[0], 1, stream(b"more"))
    await store.discard(keys[1])
    await store.append(keys[2], 0, stream(b"x"))


async def test_a_commit_never_replaces_a_blob(store: LocalStore) -> None:
    key = str(uuid4())
    await store.append(key, 0, stream(b"first"))
    await store.commit(key)
    await store.discard(key)
    await store.append(key, 0, stream(b"second"))
    with pytest.raises(StoreUnavailable):
        await store.commit(key)
    assert [chunk async for chunk in store.read(key)] == [b"first"]


async def test_without_its_folders_the_store_says_so(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "files/staging").rmdir()
    with pytest.raises(StoreUnavailable):
        await store.check()
    with pytest.raises(StoreUnavailable):
        await store.append(str(uuid4()), 0, stream(b"x"))
    assert not (tmp_path / "files/staging").exists()
