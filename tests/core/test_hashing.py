"""Chunks are hashed in order, by whatever thread, and nobody's bytes are held on to."""

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

import pytest

from file_service.core import hashing as module
from file_service.core.digests import Digests
from file_service.core.hashing import HERE, MOST_WAITING, Hashing
from file_service.models import Chunk

SIZES = [0, 1, HERE - 1, HERE, 3 * HERE]


async def give(chunks: Iterable[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


async def pass_on(hashing: Hashing, chunks: Iterable[Chunk]) -> None:
    async for _ in hashing.follow(give(chunks)):
        pass


class Gate:
    """An update that waits until it may go on."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.seen: list[bytes] = []

    def update(self, chunk: Chunk) -> None:
        assert self.opened.wait(30)
        self.seen.append(bytes(chunk))


async def test_chunks_of_all_sizes_are_hashed_in_order_by_many_at_once() -> None:
    async def one(number: int) -> None:
        chance = random.Random(number)
        chunks = [chance.randbytes(chance.choice(SIZES)) for _ in range(40)]
        found = hashlib.sha256()
        hashing = Hashing(found.update)
        await pass_on(hashing, chunks)
        await hashing.settle()
        assert found.digest() == hashlib.sha256(b"".join(chunks)).digest()

    await asyncio.gather(*(one(number) for number in range(10)))
    assert Hashing.waiting == 0


async def test_a_chunk_is_still_there_when_its_giver_has_let_go_of_it() -> None:
    gate, buffer = Gate(), bytearray(b"x" * HERE)
    hashing = Hashing(gate.update)
    with memoryview(buffer) as lent:
        await pass_on(hashing, [lent])
    with pytest.raises(BufferError):  # so that its giver can tell
        buffer.clear()
    gate.opened.set()
    await hashing.settle()
    assert gate.seen == [b"x" * HERE]
    buffer.clear()


async def test_who_brings_more_than_may_wait_has_to_wait() -> None:
    gate = Gate()
    hashing = Hashing(gate.update)
    chunks = [bytes(HERE)] * (2 * MOST_WAITING // HERE)
    passing = asyncio.create_task(pass_on(hashing, chunks))
    try:
        for _ in range(len(chunks)):
            await asyncio.sleep(0)
        assert MOST_WAITING < Hashing.waiting <= MOST_WAITING + HERE
        assert not passing.done()
    finally:
        gate.opened.set()
    await passing
    await hashing.settle()
    assert len(gate.seen) == len(chunks)
    assert Hashing.waiting == 0


@pytest.mark.parametrize("size", [1, HERE])
async def test_what_goes_wrong_is_raised_and_nothing_is_hashed_after_it(size: int) -> None:
    """What followed would be the digest of other bytes."""
    seen = []

    def update(chunk: Chunk) -> None:
        seen.append(len(chunk))
        raise MemoryError

    hashing = Hashing(update)
    with suppress(MemoryError):  # or it is told below
        await pass_on(hashing, [bytes(size)] * 3)
    with pytest.raises(MemoryError):
        await hashing.settle()
    with pytest.raises(MemoryError):
        await pass_on(hashing, [bytes(size)])
    assert seen == [size]
    assert Hashing.waiting == 0


async def test_what_is_held_counts_and_not_what_of_it_is_hashed() -> None:
    gate, buffer = Gate(), bytearray(MOST_WAITING + 1)
    hashing = Hashing(gate.update)
    passing = asyncio.create_task(pass_on(hashing, [memoryview(buffer)[:HERE]]))
    try:
        for _ in range(10):
            await asyncio.sleep(0)
        assert Hashing.waiting == len(buffer)
        assert not passing.done()
    finally:
        gate.opened.set()
    await passing
    assert Hashing.waiting == 0


@pytest.mark.parametrize("is_queued", [False, True])
async def test_where_no_thread_can_be_started_chunks_are_hashed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, is_queued: bool
) -> None:
    """A pool that fails to grow has queued the call: its older threads take it."""
    chance = random.Random(1)
    chunks = [chance.randbytes(HERE + number) for number in range(20)]
    found = hashlib.sha256()
    submit = module._hashers.submit

    def fail(call: Callable[[], None]) -> None:
        if is_queued:
            submit(call)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module._hashers, "submit", fail)
    hashing = Hashing(found.update)
    await pass_on(hashing, chunks)
    await asyncio.wait_for(hashing.settle(), 10)
    assert found.digest() == hashlib.sha256(b"".join(chunks)).digest()
    assert Hashing.waiting == 0


async def test_a_chunk_that_could_not_be_hashed_counts_as_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that whoever keeps digests can tell that these are ahead of what is stored."""
    digests = Digests()
    monkeypatch.setattr(digests._hashing, "_take", raise_memory_error)
    with pytest.raises(MemoryError):
        async for _ in digests.follow(give([b"abc"])):
            pass
    assert digests.offset == 3


def raise_memory_error(_: Chunk) -> None:
    raise MemoryError


async def test_a_request_that_is_cancelled_leaves_no_chunk_behind() -> None:
    gate = Gate()
    hashing = Hashing(gate.update)
    await pass_on(hashing, [bytes(HERE)] * 3)
    settling = asyncio.create_task(hashing.settle())
    await asyncio.sleep(0)
    settling.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await settling
    assert len(gate.seen) == 3
    assert Hashing.waiting == 0


async def test_chunks_from_elsewhere_are_passed_on_and_not_taken_in() -> None:
    digests = Digests()
    for offset, chunk in ((0, b"ab"), (5, b"xy"), (2, b"cd")):
        assert [bytes(each) async for each in digests.follow(give([chunk]), offset)] == [chunk]
    await digests.settle()
    assert digests.offset == 4
    assert digests.in_hex()["sha-256"] == hashlib.sha256(b"abcd").hexdigest()


async def test_a_copy_goes_on_by_itself() -> None:
    digests = Digests(["sha-512"])
    async for _ in digests.follow(give([bytes(HERE)])):
        pass
    copy = await digests.copy()
    async for _ in copy.follow(give([b"more"])):
        pass
    await copy.settle()
    await digests.settle()
    assert (copy.offset, digests.offset) == (HERE + 4, HERE)
    for each, content in ((digests, bytes(HERE)), (copy, bytes(HERE) + b"more")):
        assert each.in_hex()["sha-256"] == hashlib.sha256(content).hexdigest()
        assert each.in_hex()["sha-512"] == hashlib.sha512(content).hexdigest()
