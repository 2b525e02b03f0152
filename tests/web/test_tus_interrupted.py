"""Uploads that are interrupted, taken over, raced for, killed: what was sent is not sent again."""

import asyncio
import base64
import hashlib
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.upkeep import Upkeep
from tests.conftest import Client, Leftovers, MakeService
from tests.processes import ServiceProcess
from tests.web.test_standards import Address
from tests.web.test_tus import BYTES, TUS, create, file_of, offset_of, patch
from tests.wire import Answer, Listener, Wire

Serve = Callable[..., Awaitable[Client]]

BODY = os.urandom(1_000_000)
SENT = 300_001


def head_lines(method: str, url: str, **headers: str) -> bytes:
    lines = {"Host": "x", "Tus-Resumable": "1.0.0"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    told = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {url} HTTP/1.1\r\n{told}\r\n".encode()


async def begin(listener: Listener, url: str, offset: int = 0, **headers: str) -> Wire:
    """Begin a PATCH of the rest of the body, and send SENT bytes of it."""
    wire = await Wire.to(listener)
    told = {"Content_Length": str(len(BODY) - offset), "Upload_Offset": str(offset)}
    named = {"Content_Type": BYTES["Content-Type"]} | told | headers
    await wire.send(head_lines("PATCH", url, **named), BODY[offset : offset + SENT])
    return wire


async def ask(listener: Listener, method: str, url: str, **headers: str) -> Answer:
    """Send a request without a body on a connection of its own."""
    wire = await Wire.to(listener)
    await wire.send(head_lines(method, url, **headers))
    answer = await wire.receive(is_head=method == "HEAD")
    await wire.close()
    return answer


async def wait_for_bytes(leftovers: Leftovers, size: int = SENT) -> None:
    """Wait until what was sent is in the stage."""
    async with asyncio.timeout(10):
        while measure_stages(leftovers.settings.dir / "staging") < size:
            await asyncio.sleep(0.01)


def measure_stages(folder: Path) -> int:
    """Return the bytes of all stages; one that is renamed or unlinked meanwhile has none."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def reset(wire: Wire) -> None:
    linger = struct.pack("ii", 1, 0)
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wire.writer.transport.abort()


async def finish(client: Client, url: str, offset: int) -> None:
    """Send the rest and see that the file is whole."""
    assert (await patch(client, url, offset, BODY[offset:])).status == 204
    async with client.get(file_of(url)) as response:
        assert await response.read() == BODY
        assert response.headers["ETag"] == f'"{hashlib.sha256(BODY).hexdigest()}"'


@pytest.mark.parametrize("how", ["fin", "reset", "silence", "half-close"])
async def test_what_arrived_before_the_client_left_is_kept(client: Client, how: str) -> None:
    url = await create(client, len(BODY))
    wire = await begin(client, url)
    match how:
        case "fin":
            await asyncio.sleep(0.2)
            await wire.close()
        case "reset":
            await asyncio.sleep(0.2)  # or the kernel throws away what nobody has read
            reset(wire)
        case "half-close":
            wire.half_close()
    async with asyncio.timeout(10):
        while (offset := await offset_of(client, url)) < SENT:
            await asyncio.sleep(0.05)
    assert offset == SENT
    await finish(client, url, offset)
    if how == "silence":
        assert (await wire.receive()).status == 423
    await wire.close()


async def test_an_offset_that_is_told_stays_though_the_client_goes_on_sending(
    client: Client, leftovers: Leftovers
) -> None:
    url = await create(client, len(BODY))
    wire = await begin(client, url)
    await wait_for_bytes(leftovers)
    offset = await offset_of(client, url)
    with suppress(ConnectionError):
        await wire.send(BODY[SENT:])
    await finish(client, url, offset)
    await wire.close()


def hinder(monkeypatch: pytest.MonkeyPatch, step: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold up the first request that takes a step; return what tells of it, and what lets it go."""
    reached, may_go_on = asyncio.Event(), asyncio.Event()
    unhindered = getattr(UploadRows, step)

    async def hindered(rows: UploadRows, upload_id: str) -> object:
        if not reached.is_set():
            reached.set()
            await may_go_on.wait()
        return await unhindered(rows, upload_id)

    monkeypatch.setattr(UploadRows, step, hindered)
    return reached, may_go_on


@pytest.mark.parametrize("step", ["get", "claim"])
@pytest.mark.usefixtures("nothing_kept")
async def test_a_patch_on_its_way_does_not_move_an_offset_that_is_told_meanwhile(
    client: Client, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its client has left, and asks where to go on: what is still done of it is done by then."""
    url = await create(client, len(BODY))
    reached, may_go_on = hinder(monkeypatch, step)
    wire = await begin(client, url)
    await asyncio.wait_for(reached.wait(), 10)
    asked = asyncio.create_task(offset_of(client, url))
    await wire.close()
    await asyncio.sleep(0.2)
    assert not asked.done()
    may_go_on.set()
    await finish(client, url, await asked)


async def test_a_request_that_goes_on_for_too_long_is_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("file_service.core.holds.PATIENCE_SECONDS", 0.2)
    url = await create(client, len(BODY))
    reached, may_go_on = hinder(monkeypatch, "claim")
    wire = await begin(client, url)
    await asyncio.wait_for(reached.wait(), 10)
    async with client.head(url, headers=TUS) as response:
        assert response.status == 423
    may_go_on.set()
    await wire.send(BODY[SENT:])
    assert (await wire.receive()).status == 204
    await wire.close()


async def test_a_patch_takes_the_upload_from_a_stalled_one(
    client: Client, leftovers: Leftovers
) -> None:
    url = await create(client, len(BODY))
    wire = await begin(client, url)
    await wait_for_bytes(leftovers)
    await asyncio.sleep(0.2)
    assert (await patch(client, url, 0, BODY)).status == 409  # it has come further
    assert (await wire.receive()).status == 423
    await finish(client, url, SENT)
    await wire.close()


async def test_a_patch_does_not_disturb_one_that_goes_on(
    client: Client, leftovers: Leftovers
) -> None:
    url = await create(client, len(BODY))
    wire = await begin(client, url)
    await wait_for_bytes(leftovers, 1)
    other = asyncio.create_task(patch(client, url, 0, BODY))
    for start in range(SENT, len(BODY), 50_000):
        await wire.send(BODY[start : start + 50_000])
        await asyncio.sleep(0.01)
    assert (await wire.receive()).status == 204
    assert (await other).status in {409, 413, 423}
    async with client.get(file_of(url)) as response:
        assert await response.read() == BODY
    await wire.close()


async def test_a_cancelled_upload_ends_the_request_that_is_at_work_on_it(
    client: Client, leftovers: Leftovers
) -> None:
    url = await create(client, len(BODY))
    wire = await begin(client, url)
    await wait_for_bytes(leftovers)
    async with client.delete(url, headers=TUS) as response:
        assert response.status == 204
    assert (await wire.receive()).status in {404, 423}
    assert leftovers.files() == []
    await wire.close()


async def test_a_checksum_that_never_came_to_be_verified_keeps_nothing(
    client: Client, leftovers: Leftovers
) -> None:
    digest = base64.b64encode(hashlib.sha1(BODY, usedforsecurity=False).digest()).decode()
    url = await create(client, len(BODY))
    wire = await begin(client, url, Upload_Checksum=f"sha1 {digest}")
    await wait_for_bytes(leftovers)
    await wire.close()
    assert await offset_of(client, url) == 0
    await finish(client, url, 0)


async def test_a_silent_client_is_let_go_and_its_bytes_are_kept(serve: Serve) -> None:
    client = await serve(idle_seconds=0.5)
    url = await create(client, len(BODY))
    wire = await begin(client, url)
    answer = await wire.receive()
    assert answer.status == 408
    assert await offset_of(client, url) == SENT
    await wire.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_of_many_racing_patches_one_wins(make_service: MakeService, workers: int) -> None:
    listener = address_of(make_service("--workers", str(workers)))
    url = await create_at(listener, len(BODY))
    wires = [await Wire.to(listener) for _ in range(50)]
    told = {"Content_Length": str(len(BODY)), "Upload_Offset": "0"} | {
        "Content_Type": BYTES["Content-Type"]
    }

    async def race(wire: Wire) -> int:
        with suppress(ConnectionError):  # refused before all of it was sent
            await wire.send(head_lines("PATCH", url, **told), BODY)
        try:
            return (await wire.receive()).status
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0

    statuses = sorted(await asyncio.gather(*map(race, wires)))
    assert statuses.count(204) == 1, statuses
    assert set(statuses) <= {0, 204, 409, 413, 423}, statuses
    answer = await ask(listener, "GET", file_of(url))
    assert answer.body == BODY
    for wire in wires:
        await wire.close()


def address_of(service: ServiceProcess) -> Address:
    parts = urlsplit(service.url)
    return Address(str(parts.hostname), int(parts.port or 0))


async def create_at(listener: Listener, length: int) -> str:
    answer = await ask(listener, "POST", "/uploads/", Upload_Length=str(length), Content_Length="0")
    assert answer.status == 201
    return answer.headers["location"]


async def offset_at(listener: Listener, url: str) -> int:
    answer = await ask(listener, "HEAD", url)
    assert answer.status == 200
    return int(answer.headers["upload-offset"])


async def test_an_upload_stalled_at_one_worker_goes_on_at_another(
    make_service: MakeService, leftovers: Leftovers
) -> None:
    listener = address_of(make_service("--workers", "2"))
    for _ in range(6):  # whichever of the two it comes to
        url = await create_at(listener, len(BODY))
        wire = await begin(listener, url)
        await wait_for_bytes(leftovers)
        async with asyncio.timeout(4):
            assert await offset_at(listener, url) == SENT
        again = await begin(listener, url, SENT)
        await again.send(BODY[2 * SENT :])
        assert (await again.receive()).status == 204
        assert (await ask(listener, "GET", file_of(url))).body == BODY
        await ask(listener, "DELETE", url)
        await wire.close()
        await again.close()


async def test_an_upload_that_one_service_keeps_in_hand_goes_on_at_another(
    make_service: MakeService,
) -> None:
    services = [address_of(make_service()), address_of(make_service())]
    url = await create_at(services[0], len(BODY))
    step = len(BODY) // 4
    for number in range(4):
        here, there = services[number % 2], services[(number + 1) % 2]
        async with asyncio.timeout(4):
            assert await offset_at(here, url) == number * step
        piece = BODY[number * step : (number + 1) * step]
        headers = {"Upload_Offset": str(number * step), "Content_Length": str(len(piece))}
        headers["Content_Type"] = BYTES["Content-Type"]
        wire = await Wire.to(here)
        fields = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        path = urlsplit(url).path
        await wire.send(
            f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n{fields}\r\n".encode(),
            piece,
        )
        assert (await wire.receive()).status == 204
        await wire.close()
        if number < 3:  # the one that kept it before has an offset that is too old
            late = await ask(there, "PATCH", url, **headers | {"Content_Length": "0"})
            assert late.status == 409
    assert (await ask(services[0], "GET", file_of(url))).body == BODY


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_what_was_durable_outlives_the_service(
    make_service: MakeService, leftovers: Leftovers, how: signal.Signals
) -> None:
    service = make_service("--grace-seconds", "0.5")
    listener = address_of(service)
    url = await create_at(listener, len(BODY))
    wire = await begin(listener, url)
    await wait_until_advanced(leftovers, url)
    await asyncio.to_thread(service.stop, how)
    await wire.close()
    listener = address_of(make_service())
    assert await offset_at(listener, url) == SENT
    again = await begin(listener, url, SENT)
    await again.send(BODY[2 * SENT :])
    assert (await again.receive()).status == 204
    answer = await ask(listener, "GET", file_of(url))
    assert answer.body == BODY
    assert answer.headers["etag"] == f'"{hashlib.sha256(BODY).hexdigest()}"'
    await again.close()


async def wait_until_advanced(leftovers: Leftovers, url: str) -> None:
    key = url.rpartition("/")[2]
    query = f"SELECT \"offset\" FROM upload WHERE id = '{key}'"
    async with asyncio.timeout(10):
        while await leftovers.execute(query) < SENT:
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("nothing_kept")
async def test_upkeep_leaves_unfinished_uploads_alone_and_removes_expired_ones(
    client: Client, upkeep: Upkeep, rows: UploadRows, catalogue: Catalogue, leftovers: Leftovers
) -> None:
    url = await create(client, 10)
    await patch(client, url, 0, b"01234")
    assert (await upkeep.settle()).failed == 0
    assert await offset_of(client, url) == 5
    await rows.expire([url.rpartition("/")[2]], datetime.now(UTC))
    assert (await upkeep.settle()).removed == 1
    assert leftovers.files() == []
    assert await leftovers.execute("SELECT count(*) FROM upload") == 0
    assert await catalogue.find_removals(10) == []


async def test_declared_lengths_are_reserved(client: Client, rows: UploadRows) -> None:
    url = await create(client, 1000)
    await create(client, None)
    await patch(client, url, 0, b"x" * 400)
    assert await rows.sum_reserved() == 600
    await patch(client, url, 400, b"x" * 600)
    assert await rows.sum_reserved() == 0
