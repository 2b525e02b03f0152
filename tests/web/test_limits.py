import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from tests.conftest import Client
from tests.wire import Wire

Serve = Callable[..., Awaitable[Client]]
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("start", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_arrive_is_not_waited_for(serve: Serve, start: bytes) -> None:
    wire = await Wire.to(await serve(head_seconds=0.2))
    await wire.send(start)
    assert await wire.is_closed()
    await wire.close()


async def test_a_head_that_drips_is_not_waited_for(serve: Serve) -> None:
    wire = await Wire.to(await serve(head_seconds=0.3))

    async def drip() -> None:
        for byte in GET.replace(b"\n", b" ") * 100:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0.01)

    with pytest.raises(ConnectionError):
        await drip()
    await wire.close()


async def test_the_second_head_of_a_connection_is_timed_as_the_first(serve: Serve) -> None:
    wire = await Wire.to(await serve(head_seconds=0.3))
    await wire.send(GET)
    assert (await wire.receive()).status == 200
    await wire.send(GET[:10])
    assert await wire.is_closed()
    await wire.close()


async def test_an_idle_connection_is_kept_longer_than_a_head_may_take(serve: Serve) -> None:
    wire = await Wire.to(await serve(head_seconds=0.2, keepalive_seconds=5))
    await wire.send(GET)
    assert (await wire.receive()).status == 200
    await asyncio.sleep(0.5)
    await wire.send(GET)
    assert (await wire.receive()).status == 200
    await wire.close()


async def test_an_idle_connection_is_closed_in_the_end(serve: Serve) -> None:
    wire = await Wire.to(await serve(keepalive_seconds=0.2))
    await wire.send(GET)
    assert (await wire.receive()).status == 200
    assert await wire.is_closed()
    await wire.close()


async def test_a_body_may_take_longer_than_its_head(serve: Serve) -> None:
    wire = await Wire.to(await serve(head_seconds=0.2))
    await wire.send(b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
    for _ in range(10):
        await asyncio.sleep(0.05)
        await wire.send(b"x")
    assert (await wire.receive()).status == 201
    await wire.close()


async def test_connections_beyond_the_most_are_closed_and_told_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = await serve(max_connections=5)
    kept = [await Wire.to(client) for _ in range(5)]
    for wire in kept:
        await wire.send(GET)
        assert (await wire.receive()).status == 200
    for _ in range(20):
        wire = await Wire.to(client)
        assert await wire.is_closed()
        await wire.close()
    assert len([r for r in caplog.records if "too many connections" in r.message]) <= 2
    await kept[0].send(GET)
    assert (await kept[0].receive()).status == 200
    for wire in kept:
        await wire.close()
    await _until_served(client)


async def _until_served(client: Client) -> None:
    async with asyncio.timeout(10):
        while True:
            wire = await Wire.to(client)
            await wire.send(GET)
            try:
                assert (await wire.receive()).status == 200
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.01)
            else:
                return
            finally:
                await wire.close()


@pytest.mark.parametrize(("parts", "status"), [(5, 201), (6, 413)])
async def test_the_number_of_form_parts_can_be_set(serve: Serve, parts: int, status: int) -> None:
    client = await serve(max_form_parts=5)
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = part * parts + b"--b--\r\n"
    async with client.post("/files/", data=body, headers=headers) as response:
        assert response.status == status


async def test_files_without_text_fields_need_no_room_for_any(serve: Serve) -> None:
    client = await serve(max_form_fields=0)
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with client.post("/files/", data=part * 9 + b"--b--\r\n", headers=headers) as response:
        assert response.status == 201


@pytest.mark.parametrize(("size", "status"), [(900, 404), (1100, 431)])
async def test_the_size_of_headers_can_be_set(serve: Serve, size: int, status: int) -> None:
    wire = await Wire.to(await serve(max_header=1024))
    head = b"GET /nothing HTTP/1.1\r\nHost: x\r\nX: " + b"y" * size + b"\r\n\r\n"
    await wire.send(head)
    assert (await wire.receive()).status == status
    await wire.close()


async def test_a_browser_that_opened_a_link_gets_a_page(client: Client) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    headers = {"Accept": browser}
    for path, status in (("/files/<script>alert(1)<%2Fscript>/", 404), ("/nothing", 404)):
        async with client.get(path, headers=headers) as response:
            page = await response.text()
            assert (response.status, response.content_type) == (status, "text/html")
            assert response.headers["X-Request-ID"] in page
            assert "<script" not in page
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert "Accept" in response.headers["Vary"]


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "application/problem+json, text/html;q=0.5", ""]
)
async def test_everybody_else_gets_problem_details(client: Client, accept: str) -> None:
    async with client.get("/nothing", headers={"Accept": accept}) as response:
        assert response.content_type == "application/problem+json"
