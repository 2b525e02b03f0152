"""What every store of bytes must keep; a new store is one more parameter of `any_store`."""

import asyncio
import os
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from file_service.blobs.local import LocalStore
from file_service.blobs.store import BlobStore, Grip
from file_service.errors import BlobMissing, StoreUnavailable

BODY = os.urandom(300_000)


@pytest.fixture(params=["local"])
async def any_store(request: pytest.FixtureRequest, store: LocalStore) -> BlobStore:
    return {"local": store}[request.param]


@pytest.fixture
def key() -> str:
    return str(uuid4())


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def broken(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    raise ConnectionResetError


async def read(store: BlobStore, key: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, start, stop)])


async def test_what_is_staged_and_committed_is_read(any_store: BlobStore, key: str) -> None:
    assert await any_store.append(key, 0, stream(BODY[:100], BODY[100:])) == len(BODY)
    await any_store.commit(key)
    await any_store.discard(key)
    assert await read(any_store, key) == BODY


async def test_bytes_are_appended_at_their_offset(any_store: BlobStore, key: str) -> None:
    offset = await any_store.append(key, 0, stream(BODY[:1000]))
    assert await any_store.append(key, offset, stream(BODY[1000:])) == len(BODY)
    await any_store.commit(key)
    assert await read(any_store, key) == BODY


async def test_an_empty_blob_is_a_blob(any_store: BlobStore, key: str) -> None:
    assert await any_store.append(key, 0, stream()) == 0
    await any_store.commit(key)
    assert await read(any_store, key) == b""


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (1, 1), (299_999, None), (65_535, 65_537), (0, 300_000)]
)
async def test_any_part_of_a_blob_is_read(
    any_store: BlobStore, key: str, start: int, stop: int | None
) -> None:
    await any_store.append(key, 0, stream(BODY))
    await any_store.commit(key)
    assert await read(any_store, key, start, stop) == BODY[start:stop]


async def test_more_than_a_blob_has_is_missing_before_the_first_byte(
    any_store: BlobStore, key: str
) -> None:
    await any_store.append(key, 0, stream(BODY))
    await any_store.commit(key)
    chunks = any_store.read(key, 0, len(BODY) + 1)
    with pytest.raises(BlobMissing):
        await anext(chunks)


async def test_staged_bytes_are_invisible(any_store: BlobStore, key: str) -> None:
    await any_store.append(key, 0, stream(BODY))
    with pytest.raises(BlobMissing):
        await read(any_store, key)


async def test_a_stream_that_breaks_raises_and_stays_invisible(
    any_store: BlobStore, key: str
) -> None:
    with pytest.raises(ConnectionResetError):
        await any_store.append(key, 0, broken(BODY))
    with pytest.raises(BlobMissing):
        await read(any_store, key)


async def test_what_is_discarded_is_gone(any_store: BlobStore, key: str) -> None:
    await any_store.append(key, 0, stream(BODY))
    await any_store.discard(key)
    await any_store.append(key, 0, stream(b"another"))
    await any_store.commit(key)
    assert await read(any_store, key) == b"another"


async def test_discarding_and_deleting_what_is_absent_succeeds(
    any_store: BlobStore, key: str
) -> None:
    await any_store.discard(key)
    await any_store.delete(key)


async def test_a_deleted_blob_is_missing_but_its_readers_finish(
    any_store: BlobStore, key: str
) -> None:
    await any_store.append(key, 0, stream(BODY))
    await any_store.commit(key)
    chunks = any_store.read(key)
    start = await anext(chunks)
    await any_store.delete(key)
    assert start + b"".join([chunk async for chunk in chunks]) == BODY
    with pytest.raises(BlobMissing):
        await read(any_store, key)


async def test_a_cancelled_append_leaves_a_store_that_works(any_store: BlobStore, key: str) -> None:
    arrived = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield BODY
            arrived.set()

    task = asyncio.create_task(any_store.append(key, 0, endless()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await any_store.discard(key)
    await any_store.check()


async def test_many_blobs_at_once_do_not_mix(any_store: BlobStore) -> None:
    bodies = {str(uuid4()): bytes([n]) * 100_000 for n in range(30)}

    async def store(key: str, body: bytes) -> None:
        await any_store.append(key, 0, stream(body[:50_000], body[50_000:]))
        await any_store.commit(key)
        await any_store.discard(key)

    await asyncio.gather(*(store(key, body) for key, body in bodies.items()))
    for key, body in bodies.items():
        assert await read(any_store, key) == body


async def test_a_stage_has_one_holder(any_store: BlobStore, key: str) -> None:
    assert await any_store.hold(key) is Grip.MADE
    assert await any_store.hold(key) is Grip.NONE
    assert not await any_store.take_over(key)
    await any_store.release(key)
    assert await any_store.hold(key) is Grip.FOUND
    await any_store.discard(key)


async def test_a_stage_is_read_and_cut(any_store: BlobStore, key: str) -> None:
    await any_store.append(key, 0, stream(BODY))
    found = [chunk async for chunk in any_store.read_staged(key, 10, 200_000)]
    assert b"".join(found) == BODY[10:200_000]
    await any_store.truncate(key, 100)
    await any_store.truncate(key, 100)
    with pytest.raises(BlobMissing):
        await any_store.truncate(key, 101)
    with pytest.raises(BlobMissing):
        [chunk async for chunk in any_store.read_staged(key, 0, 101)]
    await any_store.append(key, 100, stream(BODY[100:]))
    await any_store.commit(key)
    assert await read(any_store, key) == BODY


async def test_stages_are_put_together(any_store: BlobStore, key: str) -> None:
    parts = {str(uuid4()): body for body in (BODY, b"", BODY[:1])}
    for part, body in parts.items():
        await any_store.append(part, 0, stream(body))
    assert await any_store.hold(key)
    order = [(part, len(body)) for part, body in parts.items()] * 2
    assert await any_store.concatenate(key, order) == 2 * (len(BODY) + 1)
    await any_store.commit(key)
    assert await read(any_store, key) == 2 * (BODY + BODY[:1])
    for part in (*parts, key):
        await any_store.discard(part)


async def test_a_stage_is_put_together_as_far_as_it_is_asked_for(
    any_store: BlobStore, key: str
) -> None:
    part = str(uuid4())
    await any_store.append(part, 0, stream(BODY))
    assert await any_store.hold(key)
    with pytest.raises(BlobMissing):
        await any_store.concatenate(key, [(part, len(BODY) + 1)])
    with pytest.raises(BlobMissing):
        await any_store.concatenate(key, [(str(uuid4()), 1)])
    await any_store.truncate(key, 0)
    assert await any_store.concatenate(key, [(part, 10), (part, 5)]) == 15
    await any_store.commit(key)
    assert await read(any_store, key) == BODY[:10] + BODY[:5]
    for each in (part, key):
        await any_store.discard(each)


async def test_a_blob_may_be_committed_again(any_store: BlobStore, key: str) -> None:
    await any_store.append(key, 0, stream(BODY))
    await any_store.commit(key)
    await any_store.commit(key)
    assert await read(any_store, key) == BODY


@pytest.mark.parametrize("size", [0, 1, 65_536])
async def test_what_is_put_whole_is_read_and_loaded(
    any_store: BlobStore, key: str, size: int
) -> None:
    await any_store.put(key, BODY[:size])
    assert await any_store.discard(key)
    assert await read(any_store, key) == BODY[:size]
    content, _ = await any_store.load(key, size)
    assert content == BODY[:size]


async def test_what_is_put_is_staged_until_it_is_discarded(any_store: BlobStore, key: str) -> None:
    await any_store.put(key, BODY)
    assert (await any_store.has_stage(key), await any_store.take_over(key)) == (True, False)
    await any_store.release(key)
    assert await any_store.take_over(key)


async def test_putting_never_exchanges_a_blob(any_store: BlobStore, key: str) -> None:
    await any_store.put(key, BODY)
    await any_store.discard(key)
    with pytest.raises(StoreUnavailable):
        await any_store.put(key, b"another")
    await any_store.discard(key)
    assert await read(any_store, key) == BODY


async def test_a_blob_of_another_size_is_not_loaded(any_store: BlobStore, key: str) -> None:
    with pytest.raises(BlobMissing):
        await any_store.load(key, 5)
    await any_store.put(key, b"hello")
    for size in (0, 4, 6):
        with pytest.raises(BlobMissing):
            await any_store.load(key, size)


async def test_a_stamp_stays_until_the_blob_goes(any_store: BlobStore, key: str) -> None:
    await any_store.put(key, BODY)
    await any_store.discard(key)
    _, stamp = await any_store.load(key, len(BODY))
    assert stamp is not None
    assert any_store.stamp(key) == stamp
    await read(any_store, key)
    assert any_store.stamp(key) == stamp
    await any_store.delete(key)
    assert any_store.stamp(key) is None


async def test_a_chunk_is_written_before_the_next_one_is_asked_for(
    any_store: BlobStore, key: str
) -> None:
    async def chunks() -> AsyncIterator[memoryview]:
        buffer = bytearray(4)
        for number in range(3):
            buffer[:] = b"%04d" % number
            with memoryview(buffer) as chunk:
                yield chunk

    await any_store.append(key, 0, chunks())
    await any_store.commit(key)
    assert await read(any_store, key) == b"000000010002"
