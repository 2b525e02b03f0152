import asyncio
import errno
import hashlib
import io
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from file_service.web.access import SENT
from file_service.web.downloads import SMALL
from file_service.web.headers import format_digests
from file_service.web.render import PROBLEMS
from tests.conftest import Client, Leftovers
from tests.wire import Wire

Serve = Callable[..., Awaitable[Client]]
BODY = os.urandom(700_001)


async def put(client: Client, body: bytes = BODY, name: str = "report.pdf") -> str:
    async with client.put(f"/files/{name}", data=body) as response:
        assert response.status == 201
        return await response.text()


def find_blob(leftovers: Leftovers, file_id: str) -> Path:
    (found,) = [name for name in leftovers.files() if name.endswith(file_id)]
    return leftovers.settings.dir / found


@pytest.mark.parametrize("chunk", [1024, 4096, 1024 * 1024])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_bytes_come_back_whatever_the_chunk(serve: Serve, chunk: int, slash: str) -> None:
    client = await serve(chunk=chunk)
    file_id = await put(client)
    async with client.get(f"/files/{file_id}{slash}") as response:
        assert response.status == 200
        assert await response.read() == BODY


async def test_the_headers_tell_all_of_the_file(client: Client) -> None:
    file_id = await put(client)
    digest = hashlib.sha256(BODY).hexdigest()
    async with client.get(f"/files/{file_id}/") as response:
        headers = response.headers
    assert headers["Content-Length"] == str(len(BODY))
    assert headers["Content-Type"] == "application/pdf"
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"report.pdf\"; filename*=UTF-8''report.pdf"
    )
    assert headers["ETag"] == f'"{digest}"'
    assert headers["Repr-Digest"] == format_digests({"sha-256": digest})
    assert headers["Last-Modified"].endswith(" GMT")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert "immutable" in headers["Cache-Control"]
    assert headers["Server"] == "file-service"


async def test_head_has_the_headers_of_get_and_no_body(client: Client) -> None:
    file_id = await put(client)
    volatile = {"Date", "X-Request-ID"}
    async with client.get(f"/files/{file_id}/") as get, client.head(f"/files/{file_id}/") as head:
        assert {k: v for k, v in get.headers.items() if k not in volatile} == {
            k: v for k, v in head.headers.items() if k not in volatile
        }
        assert (head.status, await head.read()) == (200, b"")


async def test_an_empty_file_is_downloaded(client: Client) -> None:
    file_id = await put(client, b"")
    async with client.get(f"/files/{file_id}/") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == "0"


@pytest.mark.parametrize(
    "file_id",
    [
        "0c5b4f0e-7b8e-4a55-9d6c-3f1d2a6b7c8d",
        "00000000-0000-0000-0000-000000000000",
        "ff6b51b5-4030-18ed-aa5a-1b8aba37d1c4",  # version 1
        "0C5B4F0E-7B8E-4A55-9D6C-3F1D2A6B7C8D",
        "0c5b4f0e7b8e4a559d6c3f1d2a6b7c8d",
        "%2e%2e%2fSTORE",
        "%00",
        "x" * 5000,
        "отчёт",
    ],
)
async def test_an_id_of_no_file_is_a_404_for_every_method(client: Client, file_id: str) -> None:
    for method, path in [("GET", ""), ("HEAD", ""), ("GET", "/info"), ("DELETE", "")]:
        async with client.request(method, f"/files/{file_id}{path}") as response:
            assert response.status == 404
            assert response.content_type == "application/problem+json"


async def test_a_blob_that_is_missing_is_a_500_and_never_a_404(
    client: Client, leftovers: Leftovers, caplog: pytest.LogCaptureFixture
) -> None:
    file_id = await put(client)
    find_blob(leftovers, file_id).unlink()
    async with client.get(f"/files/{file_id}/") as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["type"]) == (500, "/problems/blob-missing")
        assert str(leftovers.settings.dir) not in await response.text()
    assert file_id in caplog.text


@pytest.mark.parametrize("trouble", ["short", "fifo", "symlink", "folder"])
async def test_a_blob_that_is_not_what_its_row_says_is_a_500(
    client: Client, leftovers: Leftovers, trouble: str
) -> None:
    file_id = await put(client)
    blob = find_blob(leftovers, file_id)
    if trouble == "short":
        os.truncate(blob, 1000)
    else:
        away = blob.rename(blob.with_suffix(".away"))
        match trouble:
            case "fifo":
                os.mkfifo(blob)
            case "symlink":
                blob.symlink_to(away)
            case "folder":
                blob.mkdir()
    async with client.get(f"/files/{file_id}/") as response:
        assert response.status == 500
    async with client.get("/healthz") as response:
        assert response.status == 200


async def test_a_blob_that_shrinks_during_a_download_resets_the_connection(
    client: Client, leftovers: Leftovers
) -> None:
    """Bytes of a next answer must not be taken for the rest of this one."""
    size = 200_000_000  # more than the sockets' buffers hold
    file_id = await put(client)
    blob = find_blob(leftovers, file_id)
    os.truncate(blob, size)
    await _pretend_size(leftovers, file_id, size)
    wire = await Wire.to(client)
    get = f"GET /files/{file_id}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    await wire.send(get + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    received = len(await wire.reader.readuntil(b"\r\n\r\n"))
    os.truncate(blob, 1000)
    rest = bytearray()

    async def read_all() -> None:
        while data := await wire.reader.read(1_000_000):
            rest.extend(data)

    with pytest.raises(ConnectionResetError):
        await read_all()
    assert b"alive" not in rest
    assert received + len(rest) < size
    await wire.close()


async def _pretend_size(leftovers: Leftovers, file_id: str, size: int) -> None:
    await leftovers.execute(f"UPDATE file SET size = {size} WHERE id = '{file_id}'")


async def test_after_an_empty_file_the_connection_is_in_step(client: Client) -> None:
    paths = []
    for body in (b"", b"abc"):
        async with client.post("/files/", data=io.BytesIO(body)) as response:
            paths.append(response.headers["Location"])
    wire = await Wire.to(client)
    for path, body in ((paths[0], b""), (paths[1], b"abc"), (paths[0], b""), (paths[1], b"abc")):
        await wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await wire.receive()
        assert (answer.status, answer.body) == (200, body)
    await wire.close()


async def test_an_error_behind_the_head_is_no_second_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client.post("/files/", data=b"abc" * SMALL) as response:
        path = response.headers["Location"]

    async def fail(*_args: object) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("file_service.web.sendfile._send_span", fail)
    wire = await Wire.to(client)
    await wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 2)
    with suppress(ConnectionResetError):
        received = await wire.reader.read(100_000)
        assert received.count(b"HTTP/1.1 ") <= 1
        assert await wire.is_closed()
    await wire.close()


async def test_without_a_descriptor_left_there_is_an_answer_that_says_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client.post("/files/", data=b"abc" * SMALL) as response:
        path = response.headers["Location"]
    missing = PROBLEMS.get("blob-missing")
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", raise_too_many)
        async with client.get(path) as response:
            assert (response.status, "Retry-After" in response.headers) == (503, True)
    assert PROBLEMS.get("blob-missing") == missing
    async with client.get(path) as response:
        assert await response.read() == b"abc" * SMALL


def raise_too_many(_: int) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("size", [SMALL, SMALL + 1])
async def test_what_is_sent_is_counted_once_and_not_of_a_head(client: Client, size: int) -> None:
    async with client.post("/files/", data=bytes(size)) as response:
        path = response.headers["Location"]
    for ask, sent in ((client.head, 0), (client.get, size)):
        before = SENT.get()
        async with ask(path) as response:
            await response.read()
        assert SENT.get() == before + sent


async def test_a_reader_that_pauses_gets_every_byte_once(client: Client) -> None:
    body = os.urandom(30_000_000)  # more than the sockets hold, and more than one turn sends
    async with client.post("/files/", data=io.BytesIO(body)) as response:
        path = response.headers["Location"]
    wire = await Wire.to(client)
    await wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 2)
    wire.pause()
    await asyncio.sleep(0.5)
    wire.resume()
    for _ in range(2):
        assert (await wire.receive()).body == body
    await wire.close()


async def test_a_reader_that_leaves_in_the_middle_costs_no_descriptor(client: Client) -> None:
    async with client.post("/files/", data=io.BytesIO(bytes(30_000_000))) as response:
        path = response.headers["Location"]

    async def leave() -> None:
        wire = await Wire.to(client)
        await wire.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wire.reader.readexactly(100_000)
        wire.writer.transport.abort()
        await wire.close()

    await leave()
    before = count_descriptors()
    for _ in range(20):
        await leave()
    async with asyncio.timeout(10):
        while count_descriptors() > before:
            await asyncio.sleep(0.01)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
