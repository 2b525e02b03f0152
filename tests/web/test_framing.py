"""Where bodies end, whatever the pieces in which they arrive."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_service.errors import CutShort
from file_service.web.framing import (
    COARSE,
    FINE,
    LONGEST_LINE,
    LONGEST_TRAILERS,
    Chunked,
    Counted,
    Framing,
)

EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b';a="b c\xff"', b";a;b=c"])
TRAILERS = st.lists(st.sampled_from([b"X: y\r\n", b"Repr-Digest: sha-256=:x:\r\n", b"e:\r\n"]))


def feed(framing: Framing, data: bytes, cuts: list[int]) -> bytes:
    """Feed `data` in pieces behind bytes that are there already; return what was decoded."""
    buffer = bytearray(b"before") + bytearray(len(data))
    end = start = len(b"before")
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for first, last in pairwise(edges):
        if framing.is_complete:
            return bytes(buffer[start:end]) + b"|" + framing.surplus + data[first:]
        buffer[end : end + last - first] = data[first:last]
        end = framing.decode(buffer, end, end + last - first)
    assert bytes(buffer[:start]) == b"before"
    return bytes(buffer[start:end]) + b"|" + framing.surplus


@st.composite
def encoded(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Some content, and one of the ways to send it in chunks."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=8))
    lines: list[bytes] = []
    for chunk in chunks:
        size = draw(st.sampled_from([b"%x", b"%X", b"%08x"])) % len(chunk)
        lines += [size, draw(EXTENSIONS), b"\r\n", chunk, b"\r\n"]
    lines += [b"0", draw(EXTENSIONS), b"\r\n", *draw(TRAILERS), b"\r\n"]
    return b"".join(chunks), b"".join(lines)


@given(encoded(), st.binary(max_size=50), st.lists(st.integers(min_value=0), max_size=40))
def test_chunks_are_decoded_and_what_follows_is_kept(
    sent: tuple[bytes, bytes], surplus: bytes, cuts: list[int]
) -> None:
    content, data = sent
    framing = Chunked()
    assert feed(framing, data + surplus, cuts) == content + b"|" + surplus
    assert framing.is_complete


@given(encoded(), st.integers(min_value=0))
def test_chunks_that_are_cut_off_are_not_complete(sent: tuple[bytes, bytes], cut: int) -> None:
    content, data = sent
    framing = Chunked()
    got = feed(framing, data[: cut % len(data)], []).removesuffix(b"|")
    assert content.startswith(got)
    assert not framing.is_complete


@given(st.binary(max_size=300), st.binary(max_size=50), st.lists(st.integers(min_value=0)))
def test_a_length_ends_a_body(content: bytes, surplus: bytes, cuts: list[int]) -> None:
    framing = Counted(len(content))
    assert framing.most == len(content)
    assert feed(framing, content + surplus, cuts) == content + b"|" + surplus
    assert framing.is_complete


def broken() -> Iterator[bytes]:
    """Framings that a parser of another mind might read differently."""
    for size in (b"", b" 5", b"5 ", b"+5", b"-5", b"0x5", b"5,5", b"_5", b"5_0", b"g", b"\xb5"):
        yield size + b"\r\nhello\r\n0\r\n\r\n"
    for end in (b"\n", b"\r\r\n", b" \r\n", b"\0\r\n", b";\0\r\n", b";\n\r\n", b";\r\r\n"):
        yield b"5" + end + b"hello\r\n0\r\n\r\n"
    for extension in (b"a b", b"", b"a=", b'a="', b'a="\r"', b"a=b c", b"GET / HTTP/1.1", b"\xff"):
        yield b"5;" + extension + b"\r\nhello\r\n0\r\n\r\n"
    for behind in (b"", b"\n", b"\r", b"x\r\n", b"\r\r\n", b"\n\r\n"):
        yield b"5\r\nhello" + behind + b"0\r\n\r\n"
    for trailer in (
        b"x\r\n",
        b" x: y\r\n",
        b"x : y\r\n",
        b"x: y\n",
        b": y\r\n",
        b"x: \0\r\n",
        b"\n",
    ):
        yield b"0\r\n" + trailer + b"\r\n"
    for field in (b"Content-Length: 5", b"transfer-encoding: chunked", b"HOST: x"):
        yield b"0\r\n" + field + b"\r\n\r\n"
    yield b"1" * 17 + b"\r\n"
    yield b"5;" + b"x" * LONGEST_LINE
    yield b"0\r\n" + b"x: y\r\n" * LONGEST_TRAILERS
    yield b"0\r\nx: " + b"y" * LONGEST_LINE


@pytest.mark.parametrize("data", list(broken()), ids=lambda data: repr(data[:24]))
@pytest.mark.parametrize("step", [1, 7, 1_000_000])
def test_broken_chunks_are_refused(data: bytes, step: int) -> None:
    with pytest.raises(CutShort):
        feed(Chunked(), data, list(range(0, len(data), step)))


def test_tiny_chunks_are_read_in_small_amounts_until_they_grow() -> None:
    framing = Chunked()
    assert framing.most == COARSE
    feed(framing, b"1\r\nx\r\n" * 1000, [])
    assert framing.most == FINE
    feed(framing, b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n", [])
    assert framing.most == COARSE
