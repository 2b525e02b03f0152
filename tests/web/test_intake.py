"""The buffers that bodies are read into: large where there are few of them, small where many."""

from unittest import mock

from file_service.web.framing import Counted
from file_service.web.intake import BUDGET, LARGEST_BUFFER, SMALLEST_BUFFER, Buffers, Intake

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


def test_what_came_with_the_head_comes_first_whatever_its_size() -> None:
    buffers = Buffers()
    buffers.bodies = 1_000_000
    arrived = bytes(range(256)) * 1000
    intake = begin(buffers, arrived=arrived)
    assert intake.take() == arrived
    assert len(intake.get_buffer(-1)) == SMALLEST_BUFFER
