import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_service.core.names import LONGEST_NAME, guess_media_type, parse_name
from file_service.errors import BadName


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.txt", "a.txt"),
        ("", None),
        ("folder/", None),
        ("folder/a.txt", "a.txt"),
        (r"C:\fakepath\a.txt", "a.txt"),
        ("...", "..."),
        ("..a", "..a"),
        (" spaced ", " spaced "),
        ("n" * LONGEST_NAME, "n" * LONGEST_NAME),
    ],
)
def test_a_name_is_the_last_segment_of_what_was_sent(text: str, name: str | None) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["..", ".", "../a", "a/..", "a/../b", r"..\a", "a\0", "\x7f", "\x9f", "\ud800", "n" * 256],
)
def test_what_no_file_may_be_called_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        parse_name(text)


@given(st.text())
def test_every_accepted_name_is_safe_to_print_and_to_store(text: str) -> None:
    try:
        name = parse_name(text)
    except BadName:
        return
    if name is not None:
        assert "/" not in name
        assert name not in {".", ".."}
        name.encode()
        assert all(ord(character) >= 32 for character in name)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.pdf", "application/pdf"),
        ("A.PDF", "application/pdf"),
        ("a.tar.gz", "application/gzip"),
        ("a.html", "text/html"),
        ("a.webp", "image/webp"),
        ("a?b#c;d.png", "image/png"),
        ("data:text,x.png", "image/png"),
        ("no extension", "application/octet-stream"),
        ("a.unknown", "application/octet-stream"),
        (".png", "application/octet-stream"),
        ("отчёт.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ],
)
def test_the_extension_tells_the_media_type(name: str, media_type: str) -> None:
    assert guess_media_type(name) == media_type
