import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_service.errors import RangeNotSatisfiable
from file_service.web.ranges import MOST_RANGES, format_content_range, parse_ranges

SIZE = 1000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-999", [(0, 1000)]),
        ("bytes=0-", [(0, 1000)]),
        ("bytes=999-", [(999, 1000)]),
        ("bytes=-1", [(999, 1000)]),
        ("bytes=-1000", [(0, 1000)]),
        ("bytes=-5000", [(0, 1000)]),
        ("bytes=500-99999", [(500, 1000)]),
        ("bytes=0-9999999999999999999", [(0, 1000)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes = 0-1", [(0, 2)]),
        ("bytes=0-1,5-6", [(0, 2), (5, 7)]),
        ("bytes=5-6, 0-1", [(5, 7), (0, 2)]),
        ("bytes=8-9, 0-1, 1-2", [(8, 10), (0, 3)]),
        ("bytes= 0-1 ,\t5-6 ", [(0, 2), (5, 7)]),
        ("bytes=,0-1,,", [(0, 2)]),
        ("bytes=0-10,5-20", [(0, 21)]),
        ("bytes=0-10,11-20", [(0, 21)]),
        ("bytes=0-10,3-4", [(0, 11)]),
        ("bytes=0-1,2000-", [(0, 2)]),
        ("bytes=0-1,-0", [(0, 2)]),
        ("bytes=0-1,-1", [(0, 2), (999, 1000)]),
        ("bytes=00-01", [(0, 2)]),
        # ignored: the whole file is sent
        ("items=0-1", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=,", None),
        ("bytes=abc", None),
        ("bytes=5-2", None),
        ("bytes=--1", None),
        ("bytes=-", None),
        ("bytes=1", None),
        ("bytes=0-1,x", None),
        ("bytes=0-1;5-6", None),
        ("bytes=0-1,5-2", None),
        ("bytes=+0-1", None),
        ("bytes=0x0-0x1", None),
        ("bytes=٠-١", None),
        ("bytes=0-1 2", None),
        ("bytes=" + ",".join(f"{n * 3}-{n * 3}" for n in range(MOST_RANGES + 1)), None),
        ("bytes=0-1" + " " * 2000, None),
    ],
)
def test_a_range_header_selects_bytes(value: str, expected: list[tuple[int, int]] | None) -> None:
    found = parse_ranges(value, SIZE)
    spans = None if expected is None else [range(start, stop) for start, stop in expected]
    assert found == spans


@pytest.mark.parametrize("value", ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=9999-,-0"])
def test_where_no_range_is_in_the_file_it_is_said(value: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as raised:
        parse_ranges(value, SIZE)
    assert raised.value.size == SIZE


def test_of_an_empty_file_a_suffix_is_all_of_it_and_anything_else_not_there() -> None:
    assert parse_ranges("bytes=-5", 0) is None
    with pytest.raises(RangeNotSatisfiable):
        parse_ranges("bytes=0-", 0)
    with pytest.raises(RangeNotSatisfiable):
        parse_ranges("bytes=-0", 0)


def test_a_content_range_counts_from_zero_to_the_last_byte() -> None:
    assert format_content_range(range(2), 10) == "bytes 0-1/10"


@given(st.text(), st.integers(0, 10**12))
def test_no_header_asks_for_more_than_the_file_or_fails(text: str, size: int) -> None:
    for value in (text, "bytes=" + text):
        try:
            parts = parse_ranges(value, size)
        except RangeNotSatisfiable:
            continue
        if parts is not None:
            assert sum(len(part) for part in parts) <= size
            assert all(0 <= part.start < part.stop <= size for part in parts)
            ends = [edge for part in parts for edge in (part.start, part.stop)]
            assert ends == sorted(set(ends))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=10))
def test_what_is_selected_is_what_was_asked_for(pairs: list[tuple[int, int]]) -> None:
    ordered = [(min(pair), max(pair)) for pair in pairs]
    value = "bytes=" + ",".join(f"{first}-{last}" for first, last in ordered)
    asked = {n for first, last in ordered for n in range(first, last + 1)} & set(range(40))
    try:
        parts = parse_ranges(value, 40)
    except RangeNotSatisfiable:
        assert asked == set()
    else:
        assert {n for part in parts or [] for n in part} == asked
