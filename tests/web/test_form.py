from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_service.errors import CutShort, FileServiceError, Malformed, TooLarge
from file_service.web import form
from file_service.web.form import parse_boundary, read_parts, read_text

BOUNDARY = b"----b"
MOST = 20


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def part(head: str, content: bytes) -> bytes:
    return b"--" + BOUNDARY + b"\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def file_part(content: bytes, name: str = "x.bin") -> bytes:
    return part(f'Content-Disposition: form-data; name="f"; filename="{name}"', content)


END = b"--" + BOUNDARY + b"--\r\n"


async def read(*pieces: bytes) -> list[tuple[str, str | None, bytes]]:
    found = []
    async for each in read_parts(stream(*pieces), BOUNDARY, MOST):
        content = b"".join([chunk async for chunk in each.chunks])
        found.append((each.name, each.filename, content))
    return found


async def test_parts_come_with_their_names_and_bytes() -> None:
    body = part('Content-Disposition: form-data; name="t"', b"text") + file_part(b"12\r\n34") + END
    assert await read(body) == [("t", None, b"text"), ("f", "x.bin", b"12\r\n34")]


@given(st.data())
async def test_it_does_not_matter_where_the_network_cuts(data: st.DataObject) -> None:
    # Contents made of the boundary's own letters: every false beginning of it occurs.
    contents = data.draw(
        st.lists(
            st.lists(st.sampled_from([b"\r", b"\n", b"-", BOUNDARY, b"x"])).map(b"".join),
            max_size=MOST,
        )
    )
    contents = [each for each in contents if b"\r\n--" + BOUNDARY not in b"\r\n" + each]
    body = b"preamble\r\n" + b"".join(map(file_part, contents)) + END + b"epilogue"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert [content for _, _, content in await read(*pieces)] == contents


async def test_a_body_of_single_bytes_is_read_alike() -> None:
    body = file_part(b"one") + file_part(b"") + END
    pieces = [body[at : at + 1] for at in range(len(body))]
    assert [content for _, _, content in await read(*pieces)] == [b"one", b""]


async def test_content_passes_in_pieces_as_large_as_they_came() -> None:
    large = b"x" * 100_000
    body = file_part(large) + END
    async for each in read_parts(stream(body[:50_000], body[50_000:]), BOUNDARY, MOST):
        sizes = [len(chunk) async for chunk in each.chunks]
    assert sum(sizes) == len(large)
    assert len(sizes) <= 3


async def test_what_a_reader_leaves_unread_is_passed_over() -> None:
    names = [
        each.filename
        async for each in read_parts(
            stream(file_part(b"1" * 1000, "a") + file_part(b"2", "b") + END), BOUNDARY, MOST
        )
    ]
    assert names == ["a", "b"]


async def test_padding_and_a_long_epilogue_within_bounds_are_allowed() -> None:
    body = (file_part(b"1") + END).replace(BOUNDARY + b"\r\n", BOUNDARY + b" \t\r\n")
    assert len(await read(body + b"e" * 1000)) == 1


async def test_a_form_without_parts_is_read() -> None:
    assert await read(END) == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", CutShort),
        (b"no boundary at all", CutShort),
        (file_part(b"1"), CutShort),
        (file_part(b"1")[:-2], CutShort),
        (file_part(b"1") + END[:-3], CutShort),
        (b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data", CutShort),
        (b"--" + BOUNDARY + b"junk\r\n\r\n", Malformed),
        (part("Content-Disposition: form-data; filename=", b"") + END, Malformed),
        (part("Content-Disposition: attachment; filename=x", b"") + END, Malformed),
        (part("no-colon", b"") + END, Malformed),
        (part("Content-Type: text/plain", b"") + END, Malformed),
        (part(" folded: yes", b"") + END, Malformed),
        (
            part(
                "Content-Disposition: form-data; filename=x\r\nContent-Transfer-Encoding: base64",
                b"",
            )
            + END,
            Malformed,
        ),
        (part("X: " + "y" * form.LONGEST_HEADERS, b"") + END, TooLarge),
        (b"--" + BOUNDARY + b"\r\n" + b"X" * 20_000, TooLarge),
        (b"--" + BOUNDARY + b" " * 20_000, TooLarge),
        (b"p" * (form.LONGEST_MARGIN + 1) + b"\r\n" + file_part(b"1") + END, TooLarge),
        (file_part(b"1") + END + b"e" * (form.LONGEST_MARGIN + 1), TooLarge),
        (file_part(b"") * (MOST + 1) + END, TooLarge),
    ],
)
async def test_what_is_no_form_is_refused(body: bytes, error: type[FileServiceError]) -> None:
    with pytest.raises(error):
        await read(body)


@given(st.binary())
async def test_no_bytes_make_it_fail_otherwise_than_by_our_errors(body: bytes) -> None:
    for whole in (body, b"--" + BOUNDARY + body, b"--" + BOUNDARY + b"\r\n" + body):
        with suppress(FileServiceError):
            await read(whole)


@pytest.mark.parametrize(
    ("value", "error"), [(b"\xff", Malformed), (b"a\0b", Malformed), (b"x" * 101, TooLarge)]
)
async def test_a_text_field_is_text_of_bounded_length(
    value: bytes, error: type[FileServiceError]
) -> None:
    body = part('Content-Disposition: form-data; name="t"', value) + END
    async for each in read_parts(stream(body), BOUNDARY, MOST):
        with pytest.raises(error):
            await read_text(each, 100)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b:c"', b"a b:c"),
        ("multipart/form-data; charset=utf-8; boundary=" + "b" * 70, b"b" * 70),
    ],
)
def test_a_boundary_is_found(content_type: str, boundary: bytes) -> None:
    assert parse_boundary(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="ends with blank "',
        "multipart/form-data; boundary=" + "b" * 71,
        'multipart/form-data; boundary="semi;colon"',
    ],
)
def test_a_form_without_a_usable_boundary_is_malformed(content_type: str) -> None:
    with pytest.raises(Malformed):
        parse_boundary(content_type)
