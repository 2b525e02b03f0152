from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from file_service.web.conditions import Verdict, is_range_current, judge, parse_http_date

ETAG = '"abc"'
MODIFIED_AT = datetime(1994, 11, 6, 8, 49, 37, 999_999, tzinfo=UTC)
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
THEN = "Sun, 06 Nov 1994 08:49:37 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"

SEND, NOT_MODIFIED, FAILED = Verdict.SEND, Verdict.NOT_MODIFIED, Verdict.FAILED


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, SEND),
        # §13.1.1: strong comparison
        ({"If-Match": '"abc"'}, SEND),
        ({"If-Match": "*"}, SEND),
        ({"If-Match": '"x", "abc"'}, SEND),
        ({"If-Match": '"x"'}, FAILED),
        ({"If-Match": 'W/"abc"'}, FAILED),
        ({"If-Match": ""}, FAILED),
        ({"If-Match": "abc"}, FAILED),
        # §13.1.2: weak comparison
        ({"If-None-Match": '"abc"'}, NOT_MODIFIED),
        ({"If-None-Match": 'W/"abc"'}, NOT_MODIFIED),
        ({"If-None-Match": "*"}, NOT_MODIFIED),
        ({"If-None-Match": '"x","abc"'}, NOT_MODIFIED),
        ({"If-None-Match": '"x,y", W/"abc"'}, NOT_MODIFIED),
        ({"If-None-Match": ', "abc" ,'}, NOT_MODIFIED),
        ({"If-None-Match": '"x"'}, SEND),
        ({"If-None-Match": "abc"}, SEND),
        ({"If-None-Match": '"x" "abc"'}, NOT_MODIFIED),
        # §13.1.3
        ({"If-Modified-Since": THEN}, NOT_MODIFIED),
        ({"If-Modified-Since": AFTER}, NOT_MODIFIED),
        ({"If-Modified-Since": BEFORE}, SEND),
        ({"If-Modified-Since": "nonsense"}, SEND),
        # §13.1.4
        ({"If-Unmodified-Since": THEN}, SEND),
        ({"If-Unmodified-Since": AFTER}, SEND),
        ({"If-Unmodified-Since": BEFORE}, FAILED),
        ({"If-Unmodified-Since": "nonsense"}, SEND),
        # §13.2.2: tags go before dates, and failing before not having changed
        ({"If-Match": '"abc"', "If-Unmodified-Since": BEFORE}, SEND),
        ({"If-None-Match": '"x"', "If-Modified-Since": AFTER}, SEND),
        ({"If-None-Match": '"abc"', "If-Modified-Since": BEFORE}, NOT_MODIFIED),
        ({"If-Match": '"x"', "If-None-Match": '"abc"'}, FAILED),
        ({"If-Match": '"abc"', "If-None-Match": '"abc"'}, NOT_MODIFIED),
        ({"If-Unmodified-Since": BEFORE, "If-None-Match": '"abc"'}, FAILED),
    ],
)
def test_preconditions_are_judged_by_the_standard(
    headers: dict[str, str], verdict: Verdict
) -> None:
    assert judge(CIMultiDict(headers), ETAG, MODIFIED_AT) is verdict


@pytest.mark.parametrize(
    ("if_range", "is_current"),
    [
        (None, True),
        ('"abc"', True),
        (' "abc" ', True),
        ('"x"', False),
        ('W/"abc"', False),
        ('"abc", "x"', False),
        (THEN, True),
        (BEFORE, False),
        (AFTER, False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_a_range_is_honoured_only_of_this_very_file(if_range: str | None, is_current: bool) -> None:
    headers = CIMultiDict[str]() if if_range is None else CIMultiDict({"If-Range": if_range})
    assert is_range_current(headers, ETAG, MODIFIED_AT) is is_current


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_all_three_forms_of_a_date_are_read(text: str) -> None:
    assert parse_http_date(text) == MODIFIED_AT.replace(microsecond=0)


@given(st.text())
def test_no_text_makes_the_judgement_fail(text: str) -> None:
    for name in ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"):
        judge(CIMultiDict({name: text}), ETAG, MODIFIED_AT)
    is_range_current(CIMultiDict({"If-Range": text}), ETAG, MODIFIED_AT)
