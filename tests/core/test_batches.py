"""Batches end with their size, their time, their client, and with whoever else wants the upload."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest

from file_service.core.batches import Batches
from file_service.core.holds import STALLED_SECONDS, Hold, Wish
from file_service.errors import CutShort, UploadLost
from file_service.models import TUS, Manner, NewUpload, Upload
from tests.doubles import Arriving


@pytest.fixture
def hold() -> Hold:
    now = datetime.now(UTC)
    return Hold(
        Upload(
            id="x",
            new=NewUpload(),
            manner=Manner(dialect=TUS),
            offset=0,
            created_at=now,
            expires_at=now,
        )
    )


class Reading:
    """Batches of `stream` as they are read in the name of `hold`."""

    def __init__(self, hold: Hold, stream: Arriving, seconds: float = 60.0) -> None:
        self.found: list[bytes] = []
        self.batches = Batches(aiter(stream), hold, size=4, seconds=seconds)
        self._ended = asyncio.Event()
        self.task = asyncio.create_task(hold.run(self._read(), stream))

    async def _read(self) -> None:
        async for batch in self.batches:
            self.found.append(b"".join([bytes(chunk) async for chunk in batch]))
            self._ended.set()

    async def until_batch(self) -> None:
        """Wait for the end of a batch."""
        await asyncio.wait_for(self._ended.wait(), 10)
        self._ended.clear()

    async def until_end(self) -> None:
        """Wait for the end of all; raises what has ended them."""
        await asyncio.wait_for(self.task, 10)


async def settle() -> None:
    """Let everybody come to where they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_batch_ends_with_the_chunk_that_makes_it_large_enough(hold: Hold) -> None:
    reading = Reading(hold, Arriving(b"ab", b"c", b"defg", b"hijkl", b"m"))
    await reading.until_end()
    assert reading.found == [b"abcdefg", b"hijkl", b"m"]
    assert reading.batches.is_last


async def test_a_batch_ends_in_time_though_its_client_has_fallen_silent(hold: Hold) -> None:
    stream = Arriving(b"a", is_whole=False)
    reading = Reading(hold, stream, seconds=0.05)
    await reading.until_batch()
    assert reading.found == [b"a"]
    assert not reading.batches.is_last
    stream.send(b"b")
    stream.end()
    await reading.until_end()
    assert reading.found == [b"a", b"b"]


async def test_before_its_first_chunk_a_batch_has_no_time(hold: Hold) -> None:
    stream = Arriving(is_whole=False)
    reading = Reading(hold, stream, seconds=0.0)
    await asyncio.sleep(0.05)
    stream.send(b"ab")
    stream.end()
    await reading.until_end()
    assert reading.found == [b"ab"]


async def test_what_arrived_before_an_error_is_kept(hold: Hold) -> None:
    stream = Arriving(b"abcd", b"e", is_whole=False)
    stream.end(CutShort("gone"))
    reading = Reading(hold, stream)
    with pytest.raises(CutShort):
        await reading.until_end()
    assert reading.found == [b"abcd", b"e"]


async def test_who_is_wanted_ends_at_once_and_keeps_what_arrived(hold: Hold) -> None:
    stream = Arriving(b"a", is_whole=False)
    reading = Reading(hold, stream)
    await settle()
    hold.want(Wish.AT_ONCE)
    with pytest.raises(UploadLost):
        await reading.until_end()
    assert reading.found == [b"a"]
    assert reading.batches.is_last


async def test_who_is_wanted_before_anything_came_reads_nothing(hold: Hold) -> None:
    hold.want(Wish.AT_ONCE)
    reading = Reading(hold, Arriving(b"a"))
    with pytest.raises(UploadLost):
        await reading.until_end()
    assert reading.found == []


async def test_who_is_cancelled_ends_in_the_same_way(hold: Hold) -> None:
    reading = Reading(hold, Arriving(b"a", is_whole=False))
    await settle()
    reading.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading.until_end()
    assert reading.found == [b"a"]


async def test_only_a_client_that_has_fallen_silent_is_stalled(hold: Hold) -> None:
    stream = Arriving(b"a", is_whole=False)
    reading = Reading(hold, stream)
    await settle()
    hold.want(Wish.IF_STALLED)
    assert not hold.is_wanted
    await asyncio.sleep(STALLED_SECONDS)
    hold.want(Wish.IF_STALLED)
    with pytest.raises(UploadLost):
        await reading.until_end()


async def test_who_does_not_wait_for_its_client_does_not_pass_for_stalled(hold: Hold) -> None:
    """The disk is slow, not the client."""

    async def read(stream: Arriving) -> None:
        await anext(aiter(Batches(aiter(stream), hold)))
        await asyncio.sleep(2 * STALLED_SECONDS)
        hold.want(Wish.IF_STALLED)

    stream = Arriving(b"a", is_whole=False)
    await hold.run(read(stream), stream)
    assert not hold.is_wanted


async def test_what_is_not_read_any_more_is_let_go_of(hold: Hold) -> None:
    """At once, and not when somebody collects garbage: a chunk keeps a buffer from being used."""
    is_closed = False

    async def give() -> AsyncGenerator[bytes, None]:
        nonlocal is_closed
        try:
            while True:
                yield b"a"
        finally:
            is_closed = True

    async def read() -> None:
        async for batch in Batches(give(), hold):
            async for _ in batch:
                hold.want(Wish.AT_ONCE)

    with pytest.raises(UploadLost):
        await read()
    assert is_closed


async def test_nobody_is_nudged_once_the_request_has_ended(hold: Hold) -> None:
    stream = Arriving(b"a")
    await Reading(hold, stream).until_end()
    hold.want(Wish.AT_ONCE)
    assert not stream.is_nudged
