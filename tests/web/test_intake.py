"""The buffers that bodies are read into: large where there are few of them, small where many."""

import asyncio
from unittest import mock

import pytest

from file_service.web import body
from file_service.web.framing import Counted
from file_service.web.intake import (
    BUDGET,
    COALESCED,
    LARGEST_BUFFER,
    MOST_SPARE,
    SMALLEST_BUFFER,
    Buffers,
    Intake,
)
from file_service.web.keys import LIMITS, Limits

PIECE = 20_000
MANY = 300


def begin(buffers: Buffers, length: int = 1 << 30, arrived: bytes = b"") -> Intake:
    intake = Intake(mock.Mock(), mock.Mock(), Counted(length), buffers)
    intake.open(arrived, is_at_end=False)
    return intake


def go_on(intake: Intake) -> int:
    """Have a piece arrive and be taken; return how much room there is for what follows."""
    intake.get_buffer(-1)[:PIECE] = bytes(PIECE)
    intake.buffer_updated(PIECE)
    assert len(intake.take()) == PIECE
    return len(intake.get_buffer(-1))


def test_a_body_alone_has_large_buffers() -> None:
    intake = begin(Buffers())
    assert [go_on(intake) for _ in range(3)] == [LARGEST_BUFFER] * 3


def test_a_body_that_is_short_has_no_larger_buffers_than_it_needs() -> None:
    intake = begin(Buffers(), 3 * PIECE)
    assert go_on(intake) == 2 * PIECE


def test_many_bodies_share_the_budget_however_large_the_buffers_of_the_first_ones_were() -> None:
    buffers = Buffers()
    intakes = [begin(buffers) for _ in range(MANY)]
    for _ in range(2):
        rooms = [go_on(intake) for intake in intakes]
    assert BUDGET // 2 < 2 * sum(rooms) <= BUDGET
    assert len(set(rooms)) == 1


def test_buffers_grow_again_once_the_others_are_done() -> None:
    buffers = Buffers()
    first, *others = [begin(buffers) for _ in range(MANY)]
    small = go_on(first)
    for other in others:
        other.close()
    assert go_on(first) == LARGEST_BUFFER > small


def test_buffers_are_never_too_small_to_be_worth_their_calls() -> None:
    buffers = Buffers()
    buffers.bodies = 1_000_000
    assert go_on(begin(buffers)) == SMALLEST_BUFFER


async def test_what_came_with_the_head_comes_first_whatever_its_size() -> None:
    buffers = Buffers()
    buffers.bodies = 1_000_000
    arrived = bytes(range(256)) * 1000
    intake = begin(buffers, arrived=arrived)
    assert intake.take() == arrived
    assert len(intake.get_buffer(-1)) == SMALLEST_BUFFER


def fill(intake: Intake) -> None:
    """Have as much arrive as there is room for."""
    room = intake.get_buffer(-1)
    room[:] = b"x" * len(room)
    intake.buffer_updated(len(room))


async def test_who_takes_a_full_buffer_comes_before_what_arrives_next() -> None:
    """A thread works on the piece while the kernel copies, not after it."""
    intake = begin(Buffers())
    with mock.patch.object(intake, "_transport") as transport:
        fill(intake)
        transport.pause_reading.assert_called_once()
        intake.take()
        transport.resume_reading.assert_not_called()
        await asyncio.sleep(0)
        transport.resume_reading.assert_called_once()


async def test_who_takes_a_full_buffer_and_waits_for_more_does_wait() -> None:
    intake = begin(Buffers())
    fill(intake)
    assert await intake.wait(1, 10)
    intake.take()
    waiting = asyncio.create_task(intake.wait(1, 10))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    fill(intake)
    assert await waiting


async def test_who_is_nudged_goes_on_with_what_has_arrived_even_nothing() -> None:
    intake = begin(Buffers(), arrived=b"some")
    for arrived in (b"some", b""):
        waiting = asyncio.create_task(intake.wait(COALESCED, 10))
        await asyncio.sleep(0)
        intake.nudge()
        assert await asyncio.wait_for(waiting, 5)
        assert bytes(intake.take()) == arrived
        assert not await intake.wait(1, 0.001)  # one nudge, one piece


async def test_a_nudge_before_the_wait_counts() -> None:
    intake = begin(Buffers())
    intake.nudge()
    assert await asyncio.wait_for(intake.wait(1, 10), 5)


async def test_a_body_that_is_nudged_before_it_is_opened_does_not_wait() -> None:
    """While its client is told to go on, somebody else may want the upload."""
    intake = begin(Buffers())
    with (
        mock.patch.object(body, "_continue"),
        mock.patch.object(body, "_open_whole", return_value=intake),
    ):
        stream = body.Body(mock.Mock(app={LIMITS: Limits()}))
        stream.nudge()
        pieces = aiter(stream)
        assert bytes(await asyncio.wait_for(anext(pieces), 5)) == b""
        await pieces.aclose()  # type: ignore[attr-defined]


def test_a_large_buffer_serves_the_next_body_and_shows_it_nothing() -> None:
    buffers = Buffers()
    first = begin(buffers)
    assert len(first.get_buffer(-1)) == COALESCED  # nobody knows how many others there will be
    go_on(first)
    first.close()
    second = begin(buffers, arrived=b"mine")
    assert len(second.get_buffer(-1)) == LARGEST_BUFFER - len(b"mine")
    assert bytes(second.take()) == b"mine"


def test_what_is_kept_for_the_next_bodies_has_a_bound() -> None:
    buffers = Buffers()
    intakes = [begin(buffers) for _ in range(2 * MOST_SPARE)]
    for intake in intakes:
        go_on(intake)
    for intake in intakes:
        intake.close()
    assert len(buffers._kept) == MOST_SPARE


def test_buffers_of_few_bodies_are_not_lent_to_one_of_many() -> None:
    buffers = Buffers()
    first = begin(buffers)
    go_on(first)
    first.close()
    buffers.bodies = 1_000_000
    assert len(begin(buffers).get_buffer(-1)) == SMALLEST_BUFFER


def test_a_buffer_is_lent_again_only_once_nobody_has_a_view_of_it() -> None:
    """A thread may be at work on it long after the body is over."""
    buffers = Buffers()
    views = []
    for number in range(2 * MOST_SPARE):
        intake = begin(buffers)
        for _ in range(2):
            intake.get_buffer(-1)[:1] = b"%d" % number
            intake.buffer_updated(1)
            with intake.take() as taken:
                views.append(memoryview(taken))
        intake.close()
    assert [bytes(view) for view in views] == [b"%d" % (each // 2) for each in range(len(views))]
    of_views = {id(view.obj) for view in views}
    for view in views:
        view.release()
    intake = begin(buffers)
    assert id(intake.get_buffer(-1).obj) in of_views


async def test_who_looks_at_what_it_was_lent_too_late_is_told_so() -> None:
    intake = begin(Buffers())
    fill(intake)
    with intake.take() as lent:
        assert lent[0] == ord("x")
    with pytest.raises(ValueError, match="released"):
        lent[0]
