import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_service.errors import Malformed
from file_service.web import headers
from file_service.web.headers import (
    clean_name,
    format_digests,
    format_disposition,
    format_http_date,
    is_json_preferred,
    parse_disposition,
    parse_media_type,
    parse_part_disposition,
)

NAMES = [
    "report.pdf",
    "отчёт за май.pdf",
    "보고서.hwp",
    'a "quoted" name.txt',
    "semi;colon; x=1.txt",
    "100%25 sure 100%.txt",
    "back\\slash.txt",
    "📦 emoji 👨‍👩‍👧.zip",
    "'single' & (round) [square].txt",
    "ünïcödé.tar.gz",
]

printable = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=headers._LONGEST_SAVED_NAME
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("attachment; filename=plain.txt", "plain.txt"),
        ('attachment; filename="two words.txt"', "two words.txt"),
        (r'attachment; filename="a \"quoted\" \\ name"', 'a "quoted" \\ name'),
        ("ATTACHMENT; FILENAME=x", "x"),
        ('form-data; name="f"; filename="x;y=z.txt"', "x;y=z.txt"),
        ("attachment; filename*=UTF-8''%d0%be%D1%82.txt", "от.txt"),
        ("attachment; filename*=utf-8'ru'%D0%BE", "о"),
        ("attachment; filename*=ISO-8859-1''%E9t%E9", "été"),
        ("attachment; filename=fallback; filename*=UTF-8''best", "best"),
        ("attachment; filename*=UTF-8''best; filename=fallback", "best"),
        ("attachment ; filename = x ;", "x"),
        ("attachment;;filename=x", "x"),
        ("attachment", None),
        ('attachment; filename="отчёт.txt"', "отчёт.txt"),
        ('attachment; filename="100%25.txt"', "100%25.txt"),
    ],
)
def test_the_name_in_a_content_disposition_is_read(value: str, expected: str | None) -> None:
    assert parse_disposition(value).filename == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        ";",
        "attachment filename=x",
        "attachment; filename",
        "attachment; filename=",
        'attachment; filename="unterminated',
        "attachment; filename=two words",
        "attachment; filename=a; filename=b",
        "attachment; filename*=missing-quotes",
        "attachment; filename*=UTF-8''%zz",
        "attachment; filename*=UTF-8''%d0",
        "attachment; filename*=UTF-8''%",
        "attachment; filename*=KOI8-R''%d0",
        "attachment; filename*=UTF-8''ж",
        "@; filename=x",
    ],
)
def test_a_malformed_content_disposition_is_refused(value: str) -> None:
    with pytest.raises(Malformed):
        _ = parse_disposition(value).filename


def test_header_bytes_that_are_no_utf8_are_read_as_latin1() -> None:
    value = b'attachment; filename="\xe9t\xe9.txt"'.decode("utf-8", "surrogateescape")
    assert parse_disposition(value).filename == "été.txt"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('form-data; name="f"; filename="a %22quoted%22.txt"', 'a "quoted".txt'),
        (r'form-data; name="f"; filename="a \"quoted\".txt"', 'a "quoted".txt'),
        (r'form-data; name="f"; filename="back\slash.txt"', r"back\slash.txt"),
        ('form-data; name="f"; filename="100%25 %41.txt"', "100%25 %41.txt"),
        ('form-data; name="f"; filename="line%0D%0Abreak"', "line\r\nbreak"),
        ('form-data; name="f"; filename="отчёт.txt"', "отчёт.txt"),
        ('form-data; name="f"; filename=""', ""),
        ('form-data; name="f"', None),
    ],
)
def test_the_name_of_a_form_part_is_read_as_form_senders_write_it(
    value: str, expected: str | None
) -> None:
    assert parse_part_disposition(value).filename == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_written_disposition_carries_the_name_in_both_forms(name: str) -> None:
    written = format_disposition(name)
    parameters = parse_disposition(written).parameters
    assert parse_disposition(written).filename == clean_name(name)
    # RFC 6266 appendix D: no escapes, no percent text, nothing but ASCII in the plain form.
    assert re.fullmatch(r'[^"\\%\x00-\x1f\x7f]+', parameters["filename"])
    assert parameters["filename"].isascii()


@pytest.mark.parametrize(
    "name", ["\uff0e\uff0e\uff0fetc\uff0fx", "\uff0e\uff0e", "a\u2215b\uff3cc"]
)
def test_no_path_comes_out_of_a_name_by_its_decomposition(name: str) -> None:
    plain = parse_disposition(format_disposition(name)).parameters["filename"]
    assert not set(plain) & set("/\\")
    assert plain.strip(".")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("\ufdfa" * 60 + ".pdf", 255),  # 18 characters each, decomposed
        ("name…", 4),
        ("½.txt\u00a0", 7),
    ],
    ids=["longer by far", "dots at its end", "a blank at its end"],
)
def test_the_fallback_keeps_the_limits_that_its_decomposition_breaks(
    name: str, expected: int
) -> None:
    plain = parse_disposition(format_disposition(name)).parameters["filename"]
    assert len(plain) == expected
    assert plain == plain.strip().rstrip(".")


def test_an_ascii_name_is_its_own_fallback() -> None:
    assert format_disposition("a b.txt") == (
        "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"
    )


def test_accents_are_taken_off_in_the_fallback() -> None:
    assert 'filename="unicode.txt"' in format_disposition("ünïcödé.txt")


@given(printable)
def test_what_is_written_can_be_read(name: str) -> None:
    assert parse_disposition(format_disposition(name)).filename == clean_name(name)


@given(st.text())
def test_no_text_makes_the_parsers_fail_otherwise_than_by_malformed(text: str) -> None:
    for parse in (parse_disposition, parse_part_disposition, parse_media_type):
        try:
            parsed = parse(text)
            _ = getattr(parsed, "filename", None)
        except Malformed:
            pass
    is_json_preferred(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("evil\u202egnp.exe", "evilgnp.exe"),
        ("zero\u200bwidth\ufeff.txt", "zerowidth.txt"),
        ("soft\u00adhyphen", "softhyphen"),
        ("join\u200der.txt", "joiner.txt"),
        ("👨\u200d👩\u200d👧.png", "👨\u200d👩\u200d👧.png"),
        ("می\u200cخواهم.txt", "می\u200cخواهم.txt"),
        ("trailing dots. . .", "trailing dots"),
        (" leading", "leading"),
        ("\u200b", "file"),
        ("...", "file"),
        ("e\u0301.txt", "é.txt"),
        ("a\u200d\u200dж\u200d\u200d.txt", "aж.txt"),  # one joiner does not excuse the next
        ("a\u200b\u200dж", "aж"),
        ("e\u200b\u0301", "é"),
        ("a\u3164\U000e0041\u180eb.txt", "ab.txt"),  # fillers, tags: nobody sees them either
        ("\u3000name.exe\u00a0.\u2003", "name.exe"),
        ("\u00a0\u3164", "file"),
        ("n" * 254 + "." + "e" * 33, "n" * 254),  # the cut makes no dot at the end
    ],
)
def test_a_saved_name_holds_nothing_that_misleads(name: str, expected: str) -> None:
    assert clean_name(name) == expected


@pytest.mark.parametrize("character", ["x", "ж", "한", "📦"])
def test_a_saved_name_fits_a_file_system_and_keeps_its_extension(character: str) -> None:
    saved = clean_name(character * 250 + ".tar.gz")
    assert len(saved.encode()) <= 255
    assert saved.endswith(".gz")
    assert saved.startswith(character * 50)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text/plain", ("text/plain", {})),
        (" Text/HTML; charset=utf-8 ", ("text/html", {"charset": "utf-8"})),
        ('multipart/form-data; boundary="a b"', ("multipart/form-data", {"boundary": "a b"})),
        ("application/vnd.api+json", ("application/vnd.api+json", {})),
        ("", ("", {})),
        (None, ("", {})),
    ],
)
def test_a_media_type_is_read(value: str | None, expected: tuple[str, dict[str, str]]) -> None:
    assert parse_media_type(value) == expected


@pytest.mark.parametrize(
    "value", ["text", "text/", "/plain", "text/plain foo", "te xt/plain", "a/" + "b" * 300, "a/é"]
)
def test_what_is_no_media_type_is_refused(value: str) -> None:
    with pytest.raises(Malformed):
        parse_media_type(value)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/json", True),
        ("APPLICATION/JSON", True),
        ("application/*", True),
        ("application/json, */*", True),
        ("application/json, text/plain, */*", True),  # what axios sends
        ("text/plain, application/json", False),
        ("text/plain;q=0.5, application/json", True),
        ("application/json;q=0.5, text/plain", False),
        ("application/json;q=0", False),
        ("application/json;q=0, */*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/plain;q=0, */*", True),
        ("text/*;q=0.2, */*;q=0.1", False),
        ("image/png", False),
        ("application/json;charset=utf-8;q=0.9", True),
    ],
)
def test_json_is_sent_where_accept_prefers_it(accept: str | None, expected: bool) -> None:
    assert is_json_preferred(accept) is expected


def test_a_digest_is_a_structured_field_in_base64() -> None:
    # The SHA-256 of nothing, as in RFC 9530's spirit: 32 bytes, 44 characters.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (
        format_digests({"sha-256": empty})
        == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    )


def test_an_http_date_is_in_gmt() -> None:
    moment = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert format_http_date(moment) == "Sun, 06 Nov 1994 08:49:37 GMT"
