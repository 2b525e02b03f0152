"""Uploads at several processes on one store: killed, taken over, raced for, expired."""

import asyncio
import base64
import hashlib
import os
import signal

import pytest

from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from tests.conftest import Leftovers, MakeService
from tests.e2e.conftest import descriptors_of
from tests.e2e.test_clients import pids_of
from tests.web.test_standards import Address
from tests.web.test_tus import BYTES, file_of
from tests.web.test_tus_interrupted import (
    BODY,
    SENT,
    address_of,
    ask,
    begin,
    create_at,
    head_lines,
    offset_at,
    wait_for_bytes,
    wait_until_advanced,
)
from tests.wire import Wire

RACERS = 50
RACED = 200_000  # all of it is on the way before anybody answers


def id_of(url: str) -> str:
    return url.rpartition("/")[2]


def holder_of(url: str, pids: list[int]) -> int:
    """The process that has the stage of an upload open."""
    stage = f"/staging/{id_of(url)}"
    return next(pid for pid in pids if any(stage in name for name in descriptors_of(pid)))


async def complete(listener: Address, url: str, offset: int, **headers: str) -> None:
    """Send the rest and see that the file is whole."""
    wire = await begin(listener, url, offset, **headers)
    await wire.send(BODY[offset + SENT :])
    assert (await wire.receive()).status == 204
    await wire.close()
    answer = await ask(listener, "GET", file_of(url))
    assert answer.body == BODY
    assert answer.headers["etag"] == f'"{hashlib.sha256(BODY).hexdigest()}"'


def sum_up(body: bytes) -> str:
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    return f"sha1 {base64.b64encode(digest).decode()}"


# ── killed ──


async def test_what_a_killed_worker_had_advanced_is_not_sent_again(
    make_service: MakeService, leftovers: Leftovers, rows: UploadRows
) -> None:
    service = make_service("--workers", "2")
    listener = address_of(service)
    url = await create_at(listener, len(BODY))
    wire = await begin(listener, url)
    await wait_until_advanced(leftovers, url)
    await wire.send(BODY[SENT : 2 * SENT])  # of which nobody knows how far it comes
    os.kill(holder_of(url, pids_of(service, 2)), signal.SIGKILL)
    assert await wire.is_closed()
    offset = await offset_at(listener, url)
    assert SENT <= offset <= 2 * SENT
    assert offset == (await rows.get(id_of(url))).offset
    await complete(listener, url, offset)
    assert service.process.poll() is None
    await wire.close()


async def test_a_checksum_that_was_never_verified_moves_nothing_though_the_service_is_killed(
    make_service: MakeService, leftovers: Leftovers
) -> None:
    service = make_service()
    listener = address_of(service)
    url = await create_at(listener, len(BODY))
    first = await begin(listener, url)
    await wait_until_advanced(leftovers, url)
    await first.close()
    before = await offset_at(listener, url)
    rest = {"Upload_Checksum": sum_up(BODY[before:])}
    wire = await begin(listener, url, before, **rest)
    await wait_for_bytes(leftovers, before + SENT)
    later = await create_at(listener, len(BODY))
    unsummed = await begin(listener, later)
    await wait_until_advanced(leftovers, later)  # as the other would have, by now
    await asyncio.to_thread(service.stop, signal.SIGKILL)
    await wire.close()
    await unsummed.close()
    listener = address_of(make_service())
    assert await offset_at(listener, url) == before == SENT
    await complete(listener, url, before, **rest)


# ── taken over, raced for ──


@pytest.fixture(params=["two workers", "two services"])
def ways(
    request: pytest.FixtureRequest, make_service: MakeService
) -> list[tuple[Address, Address]]:
    """Where an upload begins, and where it goes on; of two workers, the kernel says at which."""
    if request.param == "two workers":
        both = address_of(make_service("--workers", "2"))
        return [(both, both)] * 4
    one, other = (address_of(make_service()) for _ in range(2))
    return [(one, other), (other, one)]


@pytest.mark.parametrize("guess", [0, SENT], ids=["wrong offset", "right offset"])
async def test_a_patch_takes_an_upload_that_is_stalled_elsewhere(
    ways: list[tuple[Address, Address]], leftovers: Leftovers, guess: int
) -> None:
    for here, there in ways:
        url = await create_at(here, len(BODY))
        stalled = await begin(here, url)
        await wait_until_advanced(leftovers, url)
        if guess < SENT:
            assert await ask_by_patch(there, url, guess) == SENT
        await complete(there, url, SENT)
        assert (await stalled.receive()).status == 423
        await stalled.close()


async def ask_by_patch(listener: Address, url: str, guess: int) -> int:
    """Send a PATCH at an offset that is not the upload's; return the one that it is told."""
    wire = await begin(listener, url, guess)
    answer = await wire.receive()
    await wire.close()
    assert answer.status == 409
    return int(answer.headers["upload-offset"])


async def test_of_patches_racing_at_two_services_one_wins(make_service: MakeService) -> None:
    services = [address_of(make_service()) for _ in range(2)]
    url = await create_at(services[0], RACED)
    told = {"Content_Length": str(RACED), "Upload_Offset": "0"}
    head = head_lines("PATCH", url, Content_Type=BYTES["Content-Type"], **told)
    bodies = [os.urandom(RACED) for _ in range(RACERS)]
    wires = [await Wire.to(services[number % 2]) for number in range(RACERS)]

    async def race(wire: Wire, body: bytes) -> int:
        await wire.send(head + body)
        return (await wire.receive()).status

    statuses = await asyncio.gather(*map(race, wires, bodies))
    assert statuses.count(204) == 1, statuses
    assert set(statuses) <= {204, 409, 413, 423}, statuses
    for service in services:
        assert (await ask(service, "GET", file_of(url))).body == bodies[statuses.index(204)]
    for wire in wires:
        await wire.close()


# ── expired ──


async def test_a_running_service_removes_what_nobody_goes_on_with(
    make_service: MakeService, leftovers: Leftovers, catalogue: Catalogue
) -> None:
    # Short of the half minute after which upkeep comes round again, and enough to be seen first.
    listener = address_of(make_service("--upload-seconds", "10"))
    url = await create_at(listener, len(BODY))
    wire = await begin(listener, url)
    await wait_until_advanced(leftovers, url)
    await wire.close()
    assert leftovers.files() == [f"staging/{id_of(url)}"]
    async with asyncio.timeout(90):
        while await leftovers.execute("SELECT count(*) FROM upload") or leftovers.files():
            await asyncio.sleep(0.2)
        while await catalogue.find_removals(1):
            await asyncio.sleep(0.2)
    for method in ("HEAD", "DELETE"):
        assert (await ask(listener, method, url)).status in {404, 410}
