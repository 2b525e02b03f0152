"""Whether a request still applies: preconditions, in the order of RFC 9110 §13.2.2."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

from multidict import MultiMapping

from file_service.web.headers import combine

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\U0010ffff]*)"')
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)*")

# RFC 9110 §5.6.7: Sun, 06 Nov 1994 08:49:37 GMT; Sunday, 06-Nov-94 08:49:37 GMT;
# Sun Nov  6 08:49:37 1994. All of them mean GMT.
_TIME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, [0-9]{{2}} [A-Z][a-z]{{2}} [0-9]{{4}} {_TIME} GMT"
    rf"|[A-Z][a-z]{{5,8}}, [0-9]{{2}}-[A-Z][a-z]{{2}}-[0-9]{{2}} {_TIME} GMT"
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} [ 0-9][0-9] {_TIME} [0-9]{{4}}",
)

Headers = MultiMapping[str]


class Verdict(Enum):
    """What the preconditions of a GET or HEAD make of it."""

    SEND = 200
    NOT_MODIFIED = 304
    FAILED = 412


def has_conditions(headers: Headers) -> bool:
    """Whether a request that changes something is to be done under conditions alone."""
    names = ("If-Match", "If-None-Match", "If-Unmodified-Since")
    return any(name in headers for name in names)


def judge(headers: Headers, etag: str, modified_at: datetime) -> Verdict:
    """Judge a request for a file with this strong `etag` and this time of upload.

    NOT_MODIFIED is what a GET or HEAD is answered; any other method has FAILED then (§13.1.2).
    """
    modified_at = modified_at.replace(microsecond=0)  # an HTTP-date has whole seconds
    if_match = combine(headers, "If-Match")
    if if_match is not None:
        if not _matches(if_match, etag, is_weak=False):
            return Verdict.FAILED
    else:
        since = parse_http_date(headers.get("If-Unmodified-Since"))
        if since is not None and modified_at > since:
            return Verdict.FAILED
    if_none_match = combine(headers, "If-None-Match")
    if if_none_match is not None:
        if _matches(if_none_match, etag, is_weak=True):
            return Verdict.NOT_MODIFIED
    else:
        since = parse_http_date(headers.get("If-Modified-Since"))
        if since is not None and modified_at <= since:
            return Verdict.NOT_MODIFIED
    return Verdict.SEND


def is_range_current(headers: Headers, etag: str, modified_at: datetime) -> bool:
    """Whether a Range may be honoured: If-Range is absent or names this very file (§13.1.5)."""
    if_range = headers.get("If-Range")
    if if_range is None:
        return True
    if if_range.strip().startswith(('"', "W/")):
        return if_range.strip() == etag  # strong comparison: a weak tag never equals
    return parse_http_date(if_range) == modified_at.replace(microsecond=0)


def _matches(value: str, etag: str, *, is_weak: bool) -> bool:
    if value.strip() == "*":
        return True  # there is a file, or nobody would ask
    tags = _parse_tags(value)
    return any(tag == etag for weak, tag in tags if is_weak or not weak)


def _parse_tags(value: str) -> list[tuple[bool, str]]:
    """Return (is weak, opaque tag with its quotes) of a list; none of a malformed one."""
    tags = []
    position = _SEPARATOR.match(value).end()  # type: ignore[union-attr]  # it matches nothing, too
    while position < len(value):
        match = _TAG.match(value, position)
        if match is None:
            return []
        tags.append((match[1] is not None, f'"{match[2]}"'))
        position = _SEPARATOR.match(value, match.end()).end()  # type: ignore[union-attr]  # as above
    return tags


def parse_http_date(value: str | None) -> datetime | None:
    """Return an HTTP-date in any of its three forms (§5.6.7); None for what is none."""
    if value is None or _DATE.fullmatch(value.strip()) is None:
        return None
    try:
        return parsedate_to_datetime(value.strip()).replace(tzinfo=UTC)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
