"""Uploads in many requests: what an offset says is there after kill -9 and after a power cut."""

import base64
import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.faults.disks import LOG_FLUSHED, NOTHING_FLUSHED, Kind
from tests.faults.harness import IS_THOROUGH, TIMEOUT, Ledger, Place, report
from tests.faults.machine import Machine, Where, made_machine
from tests.faults.single import Single, wait_for_death
from tests.faults.steps import IS_SUPPORTED, Steps, killing
from tests.processes import ServiceProcess

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not IS_SUPPORTED, reason="the tracer knows x86-64 only"),
]

PART = 300_000
PARTS = 4
MOST_STEPS = 200
SAMPLE = 2
MOST_SAMPLES = 10
STRIDE = 3  # steps between two power cuts: disks and catalogues are many
NEVER = 10**9

TUS = {"Tus-Resumable": "1.0.0"}
MEDIA_TYPE = {"Content-Type": "application/offset+octet-stream"}


@dataclass
class Transfer:
    """A client of tus that remembers which offset it was told last."""

    content: bytes
    path: str = ""
    told: int = 0

    async def create(self, url: str) -> None:
        headers = {**TUS, "Upload-Length": str(len(self.content))}
        async with (
            aiohttp.ClientSession(url, timeout=TIMEOUT) as session,
            session.post("/uploads/", headers=headers) as response,
        ):
            assert response.status == 201, await response.text()
            self.path = "/uploads/" + response.headers["Location"].rpartition("/uploads/")[2]

    async def patch(self, url: str, *, size: int, has_checksum: bool = False) -> bool:
        """Send the next bytes from the offset that was told; False where no answer came."""
        body = self.content[self.told : self.told + size]
        headers = {**TUS, **MEDIA_TYPE, "Upload-Offset": str(self.told)}
        if has_checksum:
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            headers["Upload-Checksum"] = f"sha256 {digest}"
        try:
            async with (
                aiohttp.ClientSession(url, timeout=TIMEOUT) as session,
                session.patch(self.path, data=body, headers=headers) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, ConnectionError):
            return False
        assert response.status == 204, (response.status, text)  # it was told this very offset
        self.told = int(response.headers["Upload-Offset"])
        assert self.told == int(headers["Upload-Offset"]) + len(body)
        return True

    async def ask(self, url: str) -> None:
        """Ask for the offset: not less than was told, not more than was sent."""
        async with (
            aiohttp.ClientSession(url, timeout=TIMEOUT) as session,
            session.head(self.path, headers=TUS) as response,
        ):
            assert response.status == 200, f"after {self.told} bytes: {response.status}"
            found = int(response.headers["Upload-Offset"])
        assert self.told <= found <= len(self.content)
        self.told = found

    async def end(self, url: str, ledger: Ledger) -> None:
        """Go on where the service says, to the end; from then on it is a file like any other."""
        await self.ask(url)
        if self.told < len(self.content):
            assert await self.patch(url, size=len(self.content))
        key = self.path.rpartition("/")[2]
        ledger.uploaded[key] = hashlib.sha256(self.content).hexdigest()


async def transfer_until_killed(
    single: Single, service: ServiceProcess, at: int
) -> tuple[Transfer, Steps]:
    """Send three parts of four, or what comes before the service's step number `at`."""
    transfer = Transfer(single.chance.randbytes(PARTS * PART))
    await transfer.create(service.url)
    assert await transfer.patch(service.url, size=PART)
    async with killing(service.process.pid, at=at) as steps:
        if await transfer.patch(service.url, size=PART):
            is_there = await transfer.patch(service.url, size=PART, has_checksum=True)
            if is_there:
                await transfer.patch(service.url, size=PART)
    return transfer, steps


async def choose_points(single: Single) -> Iterable[int]:
    """All steps, one after the other until a transfer gets through; or a sample of them."""
    if IS_THOROUGH:
        return itertools.count(1)
    async with single.place.serving() as service:
        transfer, steps = await transfer_until_killed(single, service, NEVER)
        await transfer.end(service.url, single.ledger)
    return sorted(single.chance.sample(range(1, len(steps.taken) + 1), SAMPLE))


async def test_an_offset_that_was_told_survives_kill_9_at_any_step(
    database_url: str, folder: Path, seed: int
) -> None:
    single = Single(Place(folder, database_url), random.Random(seed))
    kills = 0
    for at in await choose_points(single):
        async with single.place.serving() as service:
            transfer, steps = await transfer_until_killed(single, service, at)
            if steps.has_killed:
                await wait_for_death(service)
        async with single.place.serving() as service:
            await transfer.end(service.url, single.ledger)
            assert await single.find_violations(service.url) == [], f"seed {seed}, {steps.last}"
        kills += steps.has_killed
        if not steps.has_killed:
            break
        assert at < MOST_STEPS
    assert await single.audit() == [], f"seed {seed}"
    assert kills >= (20 if IS_THOROUGH else 1)
    report("kill -9 at a step of a PATCH", kills=kills, files=len(single.ledger.uploaded))


async def cut_at(machine: Machine, at: int) -> str | None:
    """Cut the power at a step of a transfer and go on with it; which step, None after the last."""
    single = machine.single
    async with machine.serving() as service:
        transfer, steps = await transfer_until_killed(single, service, at)
        await machine.cut(service, single.chance.choice([NOTHING_FLUSHED, LOG_FLUSHED]))
    async with single.place.serving() as service:
        await transfer.end(service.url, single.ledger)
    return steps.last if steps.has_killed else None


def sample_points(machine: Machine) -> Iterator[int]:
    """Yield steps, until a cut at one has cost what was not synced; then none, to the end."""
    for _ in range(MOST_SAMPLES):
        if machine.felt:
            break
        yield machine.single.chance.randint(1, 20)
    yield NEVER


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("kind", ["ext4", "xfs"] if IS_THOROUGH else ["ext4"])
@pytest.mark.parametrize("where", ["other", "same", "postgresql"] if IS_THOROUGH else ["other"])
async def test_an_offset_that_was_told_survives_a_power_cut(
    kind: Kind, where: Where, seed: int
) -> None:
    async with made_machine(kind, where, seed) as machine:
        for at in itertools.count(1) if IS_THOROUGH else sample_points(machine):
            if await cut_at(machine, at) is None:
                break
            assert at < MOST_STEPS
        await machine.check()
        ledger = machine.single.ledger
        report(
            f"power cut at a step of a PATCH, {kind}, {where}",
            cuts=machine.cuts,
            files=len(ledger.uploaded),
        )
