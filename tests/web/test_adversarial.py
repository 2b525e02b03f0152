"""Headers that no honest client sends: slow to parse, meant for two readers, or endless."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from multidict import CIMultiDict

from file_service.errors import FileServiceError
from file_service.web.conditions import is_range_current, judge
from file_service.web.form import parse_boundary
from file_service.web.headers import (
    is_html_preferred,
    is_json_preferred,
    parse_digests,
    parse_disposition,
    parse_media_type,
    parse_part_disposition,
    parse_wanted_digests,
)
from file_service.web.proxies import _forwarded
from file_service.web.ranges import parse_ranges
from tests.conftest import Client, Leftovers
from tests.wire import Wire

Serve = Callable[..., Awaitable[Client]]

TAG = '"x"'
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def judge_by(name: str) -> Callable[[str], object]:
    def parse(text: str) -> object:
        headers = CIMultiDict({name: text})
        return judge(headers, TAG, MOMENT), is_range_current(headers, TAG, MOMENT)

    return parse


PARSERS: dict[str, Callable[[str], object]] = {
    "Accept": lambda text: (is_json_preferred(text), is_html_preferred(text)),
    "Content-Digest": parse_digests,
    "Content-Disposition": parse_disposition,
    "Content-Disposition of a part": parse_part_disposition,
    "Content-Type": parse_media_type,
    "Content-Type of a form": parse_boundary,
    "Forwarded": lambda text: list(_forwarded(text)),
    **{
        name: judge_by(name)
        for name in (
            "If-Match",
            "If-Modified-Since",
            "If-None-Match",
            "If-Range",
            "If-Unmodified-Since",
        )
    },
    "Range": lambda text: parse_ranges(text, 10),
    "Want-Repr-Digest": parse_wanted_digests,
}

SIZE = 16_000
BEGINNINGS = ["", "sha-256=5", "sha-256=:" + "A" * 43 + "=:", "bytes=", "form-data", "a/b", "for="]
PIECES = [
    ";a= ", "; a=", " ;", ";", ",", " ", "\t", '"', '\\"', '"\\', ';a="', "for=[", 'for="', "=",
    "0-0,", "*;q=", ";q=0.", "W/", "a,", "'", "%", "((", ":", "-", "\\",
    ';a="\\', "\x00", "é", "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
def test_no_header_of_the_longest_allowed_takes_long_to_parse(name: str) -> None:
    """What backtracks takes minutes here, not milliseconds: the test's own limit ends it."""
    for beginning in BEGINNINGS:
        for piece in PIECES:
            for end in ("", "A", ";A", '"'):
                text = (beginning + piece * (SIZE // len(piece)))[:SIZE] + end
                try:
                    PARSERS[name](text)
                except FileServiceError:
                    continue


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Encoding: identity\r\nContent-Encoding: gzip", 415),
        ("Content-Digest: sha-256=:{right}:\r\nContent-Digest: sha-512=:{wrong}:", 400),
        ("Content-Disposition: inline\r\nContent-Disposition: attachment", 400),
        ("Expect: 100-continue\r\nExpect: more", 417),
        ("If-Match: *", 412),
    ],
)
async def test_every_line_of_a_header_counts(
    client: Client, leftovers: Leftovers, headers: str, status: int
) -> None:
    right, wrong = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=", "A" * 86 + "=="
    wire = await Wire.to(client)
    lines = headers.format(right=right, wrong=wrong)
    await wire.send(
        f"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n{lines}\r\n\r\nabc".encode()
    )
    answer = await wire.receive()
    assert answer.status == status, answer.body
    await wire.close()
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


async def test_a_head_may_not_grow_without_end(client: Client) -> None:
    wire = await Wire.to(client)
    await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
    for number in range(100):
        with_field = b"X-%d: %s\r\n" % (number, b"x" * 10_000)
        try:
            await wire.send(with_field)
        except ConnectionError:
            break
        if wire.reader.at_eof():
            break
        await asyncio.sleep(0)
    answer = await wire.receive()
    assert (answer.status, answer.problem["title"]) == (431, "Request Header Fields Too Large")
    assert await wire.is_closed()
    await wire.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST /files/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 501),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", 200),
        (b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", 404),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", 200),
    ],
)
async def test_what_ends_in_a_closed_connection_says_so(
    client: Client, head: bytes, status: int
) -> None:
    wire = await Wire.to(client)
    await wire.send(head)
    answer = await wire.receive()
    assert answer.status == status
    assert answer.headers.get("connection") == ("close" if b"HTTP/1.1" in head else None)
    assert await wire.is_closed()
    await wire.close()


@pytest.mark.parametrize("head", [b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", b"no request\r\n\r\n"])
async def test_what_is_no_request_is_answered_in_our_version(client: Client, head: bytes) -> None:
    wire = await Wire.to(client)
    await wire.send(head)
    assert await wire.reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
    await wire.close()
