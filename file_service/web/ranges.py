"""Which bytes a request asks for: the Range header (RFC 9110 §14)."""

import re
from collections.abc import Iterator

from file_service.errors import RangeNotSatisfiable

# More ranges, or a longer header, are not what any reader needs: they are answered by the whole.
MOST_RANGES = 32
LONGEST_HEADER = 1024

_UNIT = re.compile(r"\s*bytes\s*=(.*)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"([0-9]{0,19})-([0-9]{0,19})", re.ASCII)


def parse_ranges(value: str, size: int) -> list[range] | None:
    """Return the satisfiable ranges of a file of `size` bytes, none touching another.

    They come in the order that was asked for, as far as it can be kept (§15.3.7.2).

    None where the header is to be ignored: another unit, malformed, or asking for too much
    (§14.2). RangeNotSatisfiable where no range is (§15.5.17).
    """
    match = _UNIT.fullmatch(value)
    if match is None or len(value) > LONGEST_HEADER:
        return None
    pairs = list(_split(match[1]))
    if not pairs or len(pairs) > MOST_RANGES or not all(map(_is_valid, pairs)):
        return None
    if not size and any(first is None and last for first, last in pairs):
        return None  # §14.1.2: satisfied by no bytes at all, which no Content-Range can say
    asked = [each for each in (_select(first, last, size) for first, last in pairs) if each]
    if not asked:
        raise RangeNotSatisfiable(size)
    found = list(_coalesce(sorted(asked, key=lambda each: each.start)))
    return sorted(found, key=lambda each: _find_first(asked, each))


def format_content_range(part: range, size: int) -> str:
    """Write a Content-Range (§14.4)."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"


_Pair = tuple[int | None, int | None]


def _split(text: str) -> Iterator[_Pair]:
    """Yield (first, last); what is no range at all as (None, None)."""
    for element in (each.strip(" \t") for each in text.split(",")):
        if not element:
            continue  # §5.6.1.2: empty elements of a list do not count
        match = _RANGE.fullmatch(element)
        first, last = match.groups() if match else ("", "")
        yield int(first) if first else None, int(last) if last else None


def _is_valid(pair: _Pair) -> bool:
    first, last = pair
    if first is None:
        return last is not None
    return last is None or first <= last


def _select(first: int | None, last: int | None, size: int) -> range:
    if first is None:
        return range(max(0, size - (last or 0)), size)
    return range(first, size if last is None else min(last + 1, size))


def _find_first(asked: list[range], whole: range) -> int:
    """Return at which place the first of the ranges stands that became part of `whole`."""
    return next(at for at, each in enumerate(asked) if each.start in whole)


def _coalesce(parts: list[range]) -> Iterator[range]:
    # §15.3.7.2: overlapping and adjoining ranges may be sent as one, so that no request gets more
    # bytes than the file has.
    current = parts[0]
    for part in parts[1:]:
        if part.start <= current.stop:
            current = range(current.start, max(current.stop, part.stop))
        else:
            yield current
            current = part
    yield current
