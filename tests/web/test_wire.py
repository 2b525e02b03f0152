"""What only raw sockets can send: bodies cut short, broken framing, half-closed connections."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from tests.conftest import Client, Leftovers, ServiceServer
from tests.wire import Wire

Serve = Callable[..., Awaitable[Client]]

POST = b"POST /files/ HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
FORM = POST + b"Content-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n'


@pytest.fixture
async def wire(client: Client) -> AsyncIterator[Wire]:
    wire = await Wire.to(client)
    yield wire
    await wire.close()


CUT_SHORT = {
    "a length not reached": (POST + b"Content-Length: 100\r\n\r\n", b"x" * 50),
    "a length not reached at all": (POST + b"Content-Length: 100\r\n\r\n", b""),
    "a long body not reached": (POST + b"Content-Length: 900000\r\n\r\n", b"x" * 700_000),
    "no last chunk": (CHUNKED, b"5\r\nhello\r\n"),
    "a chunk not whole": (CHUNKED, b"ff\r\nhello"),
    "no line after the last chunk": (CHUNKED, b"5\r\nhello\r\n0\r\n"),
    "a form cut in its body": (FORM + b"Content-Length: 500\r\n\r\n", PART + b"content"),
    "a chunked form without last boundary": (
        FORM + b"Transfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(PART) + 2, PART + b"cc"),
    ),
}


@pytest.mark.parametrize("case", CUT_SHORT)
async def test_a_body_cut_short_is_a_400_that_says_so_and_nothing_is_left(
    wire: Wire, leftovers: Leftovers, case: str
) -> None:
    await wire.send(*CUT_SHORT[case])
    wire.half_close()
    answer = await wire.receive()
    assert (answer.status, answer.problem["type"]) == (400, "/problems/cut-short")
    assert await wire.is_closed()
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


@pytest.mark.parametrize(
    "bad",
    [b"zz\r\nhello\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloXX\r\n", b"5;\x00\r\nhello\r\n0\r\n\r\n"],
)
@pytest.mark.parametrize("good", [0, 10, 60_000, 300_000, 3_000_000])
async def test_a_bad_chunk_is_a_400_wherever_it_comes(
    wire: Wire, leftovers: Leftovers, good: int, bad: bytes
) -> None:
    await wire.send(CHUNKED)
    if good:
        await wire.send(b"%x\r\n%s\r\n" % (good, b"x" * good))
    await wire.send(bad)
    answer = await wire.receive()
    assert answer.status == 400
    assert answer.problem["detail"]
    assert await wire.is_closed()
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_what_cannot_be_parsed_is_a_problem_that_echoes_nothing(
    wire: Wire, head: bytes
) -> None:
    await wire.send(head)
    answer = await wire.receive()
    assert (answer.status, answer.problem["type"]) == (400, "/problems/malformed")
    assert b"GARBAGE" not in answer.body
    assert answer.headers["connection"] == "close"
    assert await wire.is_closed()


async def test_a_client_that_half_closes_after_its_request_gets_its_answer(
    wire: Wire, client: Client
) -> None:
    await wire.send(POST + b"Content-Length: 5\r\n\r\nhello")
    wire.half_close()
    answer = await wire.receive()
    assert answer.status == 201
    assert await wire.is_closed()
    async with client.get(f"/files/{answer.body.decode()}/") as response:
        assert await response.read() == b"hello"


async def test_a_half_closed_download_arrives_whole(wire: Wire, client: Client) -> None:
    body = b"0123456789" * 100_000
    async with client.post("/files/", data=body) as response:
        file_id = await response.text()
    await wire.send(f"GET /files/{file_id}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    wire.half_close()
    assert (await wire.receive()).body == body


async def test_pipelined_requests_of_a_half_closed_client_are_all_answered(wire: Wire) -> None:
    await wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    wire.half_close()
    assert [(await wire.receive()).status for _ in range(3)] == [200, 200, 200]
    assert await wire.is_closed()


async def test_a_refused_upload_is_answered_while_its_body_still_comes(
    wire: Wire, leftovers: Leftovers
) -> None:
    await wire.send(
        b"POST /files/?filename=.. HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n"
    )
    answer = await wire.receive()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert leftovers.files() == []


async def test_http_1_0_is_served_and_closed(wire: Wire) -> None:
    await wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await wire.receive()).status == 200
    assert await wire.is_closed()


async def test_expect_100_continue_is_answered_before_the_body(wire: Wire) -> None:
    await wire.send(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    await wire.send(b"hello")
    assert (await wire.receive()).status == 201


async def test_raw_utf8_in_a_content_disposition_is_understood(wire: Wire, client: Client) -> None:
    head = 'Content-Disposition: attachment; filename="отчёт.txt"\r\nContent-Length: 0\r\n\r\n'
    await wire.send(POST + b"Accept: application/json\r\n" + head.encode())
    answer = await wire.receive()
    assert json.loads(answer.body)["name"] == "отчёт.txt"


async def test_a_connection_that_is_kept_takes_one_upload_after_the_other(wire: Wire) -> None:
    for _ in range(3):
        await wire.send(POST + b"Content-Length: 5\r\n\r\nhello")
        assert (await wire.receive()).status == 201
        await wire.send(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")
        assert (await wire.receive()).status == 201


async def test_a_client_that_leaves_in_an_upload_leaves_nothing(
    client: Client, leftovers: Leftovers
) -> None:
    wire = await Wire.to(client)
    await wire.send(POST + b"Content-Length: 9000000\r\n\r\n", b"x" * 1_000_000)
    await _until(lambda: bool(leftovers.files()))  # the stage is there
    wire.writer.transport.abort()
    await _until(lambda: not leftovers.files())
    assert await leftovers.rows() == 0


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_a_silent_uploader_is_told_and_let_go(serve: Serve, leftovers: Leftovers) -> None:
    wire = await Wire.to(await serve(idle_seconds=0.2))
    await wire.send(POST + b"Content-Length: 100\r\n\r\n", b"x" * 50)
    answer = await wire.receive()
    assert (answer.status, answer.problem["type"]) == (408, "/problems/stalled")
    assert await wire.is_closed()
    await wire.close()
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


async def test_an_uploader_that_drips_is_told_and_let_go(
    serve: Serve, leftovers: Leftovers
) -> None:
    wire = await Wire.to(await serve(idle_seconds=0.2, min_rate=1000))
    await wire.send(POST + b"Content-Length: 100000\r\n\r\n")
    dripping = asyncio.create_task(drip(wire))
    answer = await wire.receive()
    assert (answer.status, answer.problem["type"]) == (408, "/problems/stalled")
    assert "1000 bytes a second" in answer.problem["detail"]
    dripping.cancel()
    await wire.close()
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


async def drip(wire: Wire) -> None:
    with suppress(ConnectionError):
        while True:
            await wire.send(b"x")
            await asyncio.sleep(0.02)


async def test_a_slow_uploader_is_waited_for(serve: Serve) -> None:
    wire = await Wire.to(await serve(idle_seconds=0.5, min_rate=1))
    await wire.send(POST + b"Content-Length: 20\r\n\r\n")
    for _ in range(20):  # twice as long as the silence that is allowed
        await wire.send(b"x")
        await asyncio.sleep(0.05)
    assert (await wire.receive()).status == 201
    await wire.close()


async def test_a_reader_that_stops_is_let_go(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = await serve(idle_seconds=1)

    async def large() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(1_000_000)

    async with client.put("/files/large", data=large()) as response:
        file_id = await response.text()
    wire = await Wire.to(client)
    wire.pause()
    await wire.send(f"GET /files/{file_id}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    server = client.server
    assert isinstance(server, ServiceServer)
    await _until(lambda: len(server.handler.connections) == 2)  # and the uploader's, which is kept
    await _until(lambda: len(server.handler.connections) == 1)
    wire.resume()
    with pytest.raises(ConnectionError):
        await wire.reader.read()
    await wire.close()
    assert not [record for record in caplog.records if record.exc_info]


EXPECTING = b"Expect: 100-continue\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /files/?filename=.. HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n", 400),
        (POST + b"Content-Length: 50\r\nContent-Type: @\r\n", 400),
        (POST + b"Content-Length: 50\r\nContent-Disposition: ;\r\n", 400),
        (POST + b"Content-Length: 50\r\nContent-Type: multipart/form-data\r\n", 400),
        (POST + b"Content-Length: 50\r\nContent-Encoding: gzip\r\n", 415),
        (POST + b"Content-Length: 5000000\r\n", 413),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"PUT /files/a/info HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n", 405),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n", 404),
    ],
)
async def test_a_refused_upload_that_waits_costs_no_byte_of_its_body(
    serve: Serve, head: bytes, status: int
) -> None:
    wire = await Wire.to(await serve(max_size=1000))
    await wire.send(head + EXPECTING + b"\r\n")
    first = await wire.reader.readuntil(b"\r\n")
    assert first.split(b" ")[1] == str(status).encode()
    rest = await asyncio.wait_for(wire.reader.read(), 10)
    assert b"application/problem+json" in rest
    await wire.close()


async def test_an_upload_that_is_admitted_is_continued_once(wire: Wire) -> None:
    await wire.send(POST + b"Content-Length: 5\r\n" + EXPECTING + b"\r\n")
    assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.send(b"hello")
    head = await wire.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201")
    assert len(await wire.reader.readexactly(36)) == 36
    await wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await wire.receive()).status == 200


async def test_an_old_client_is_not_continued(wire: Wire) -> None:
    head = b"POST /files/ HTTP/1.0\r\nContent-Length: 5\r\n" + EXPECTING + b"\r\n"
    await wire.send(head, b"hello")
    assert (await wire.reader.readuntil(b"\r\n")).split(b" ")[1] == b"201"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST + b"Content-Length: 5\r\nExpect: something\r\n\r\nhello", 417),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: identity, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 501),
        (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    ],
)
async def test_framing_that_is_not_understood_is_refused(
    wire: Wire, leftovers: Leftovers, head: bytes, status: int
) -> None:
    await wire.send(head)
    assert (await wire.receive()).status == status
    assert leftovers.files() == []
