"""What lies between the bodies on one connection: the next request, at every place it can begin."""

import asyncio
from collections.abc import AsyncIterator
from io import BytesIO

import pytest

from file_service.web.connection import Server
from file_service.web.intake import MOST_SPARE, Buffers, _is_free
from tests.conftest import Client, Leftovers, ServiceServer
from tests.wire import Wire

HEAD = b"POST /files/ HTTP/1.1\r\nHost: x\r\n"
HELLO = {
    "length": HEAD + b"Content-Length: 5\r\n\r\nhello",
    "chunked": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: t\r\n\r\n",
}
PING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def wire(client: Client) -> AsyncIterator[Wire]:
    wire = await Wire.to(client)
    yield wire
    await wire.close()


async def get(wire: Wire, file_id: bytes) -> bytes:
    await wire.send(b"GET /files/%s HTTP/1.1\r\nHost: x\r\n\r\n" % file_id)
    return (await wire.receive()).body


@pytest.mark.parametrize("framing", HELLO)
async def test_a_request_behind_a_body_is_answered_wherever_the_packets_end(
    wire: Wire, framing: str
) -> None:
    sent = HELLO[framing] + PING
    around = len(sent) - len(PING)
    for cut in (*range(len(HEAD) - 3, around + 8), len(sent) - 2):
        await wire.send(sent[:cut])
        await asyncio.sleep(0.001)
        await wire.send(sent[cut:])
        assert (await wire.receive()).status == 201
        assert (await wire.receive()).status == 200


@pytest.mark.parametrize("framing", HELLO)
async def test_many_bodies_in_one_packet_are_answered_in_order(wire: Wire, framing: str) -> None:
    await wire.send((HELLO[framing] + PING) * 100)
    stored = []
    for _ in range(100):
        answer = await wire.receive()
        assert answer.status == 201
        stored.append(answer.body)
        assert (await wire.receive()).status == 200
    assert len(set(stored)) == 100
    assert [await get(wire, file_id) for file_id in stored] == [b"hello"] * 100


async def test_requests_without_bodies_in_one_packet_are_all_answered(wire: Wire) -> None:
    await wire.send(PING * 1000)
    assert [(await wire.receive()).status for _ in range(1000)] == [200] * 1000


@pytest.mark.parametrize("framing", HELLO)
async def test_empty_lines_before_a_request_are_passed_over(wire: Wire, framing: str) -> None:
    for _ in range(3):
        await wire.send(b"\r\n\r\n" + HELLO[framing] + b"\r\n")
        assert (await wire.receive()).status == 201


@pytest.mark.parametrize("framing", HELLO)
async def test_a_small_body_that_nobody_reads_does_not_end_the_connection(
    wire: Wire, framing: str
) -> None:
    for _ in range(3):
        await wire.send(HELLO[framing].replace(b"/files/", b"/nothing"))
        answer = await wire.receive()
        assert (answer.status, answer.headers.get("connection")) == (404, None)


async def test_a_body_that_is_not_wanted_is_not_parsed_as_a_request(
    wire: Wire, leftovers: Leftovers
) -> None:
    smuggled = HELLO["length"]
    await wire.send(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + smuggled)
    answer = await wire.receive()
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    await wire.send(smuggled * 3)
    assert await wire.is_closed()
    assert leftovers.files() == []


async def test_a_body_that_ends_with_the_connection_is_stored(client: Client) -> None:
    for sent in HELLO.values():
        wire = await Wire.to(client)
        await wire.send(sent)
        wire.half_close()
        answer = await wire.receive()
        assert answer.status == 201
        assert await wire.is_closed()
        await wire.close()


async def test_a_body_in_tiny_chunks_is_stored(wire: Wire) -> None:
    await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 50_000)
    await wire.send(b"0\r\n\r\n")
    answer = await wire.receive()
    assert answer.status == 201
    assert await get(wire, answer.body) == b"x" * 50_000


@pytest.mark.parametrize("framing", HELLO)
async def test_what_follows_a_connect_is_not_read_by_another_parser(
    wire: Wire, leftovers: Leftovers, framing: str
) -> None:
    await wire.send(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO[framing])
    answer = await wire.receive()
    assert (answer.status >= 400, answer.headers["connection"]) == (True, "close")
    assert await wire.is_closed()
    assert leftovers.files() == []


def buffers_of(client: Client) -> Buffers:
    assert isinstance(client.server, ServiceServer)
    assert isinstance(client.server.handler, Server)
    return client.server.handler.buffers


async def store(client: Client, size: int = 3_000_000) -> None:
    async with client.post("/files/", data=BytesIO(bytes(size))) as response:
        assert response.status == 201


async def test_buffers_of_a_body_serve_the_next_one(client: Client) -> None:
    await store(client)
    first = {id(buffer) for buffer in buffers_of(client)._kept}
    for _ in range(10):
        await store(client)
    assert first & {id(buffer) for buffer in buffers_of(client)._kept}
    assert len(buffers_of(client)._kept) <= MOST_SPARE


async def test_so_do_those_of_a_body_that_broke(wire: Wire, client: Client) -> None:
    await wire.send(HEAD + b"Content-Length: 4000000\r\n\r\n", bytes(3_000_000))
    wire.half_close()
    assert (await wire.receive()).status == 400
    assert 0 < len(buffers_of(client)._kept) <= MOST_SPARE
    assert all(map(_is_free, buffers_of(client)._kept))


async def test_a_refused_body_costs_the_next_ones_no_buffer(client: Client) -> None:
    await store(client)
    before = len(buffers_of(client)._kept)
    wire = await Wire.to(client)
    await wire.send(HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await wire.receive()).status == 415
    await wire.close()
    assert len(buffers_of(client)._kept) == before
