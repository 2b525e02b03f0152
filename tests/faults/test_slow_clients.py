"""Hundreds of clients that send or read slowly, or not at all: everybody else is served."""

import asyncio
import io
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from file_service.server import LINGERING_SECONDS
from tests.e2e.conftest import descriptors_of
from tests.faults.callers import until
from tests.faults.harness import IS_THOROUGH, TIMEOUT, Place, audit, report
from tests.processes import ServiceProcess

# Nothing here depends on which database it is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ATTACKERS = 200
KIB = 1024
LARGE = 8 * KIB * KIB

# The service's limits here, for heads and for silence.
HEAD_SECONDS = 2.0
IDLE_SECONDS = 2.0

# What a busy machine may take longer than what is promised.
SLACK_SECONDS = 3.0

# How long each may stay. A stalled upload is answered first, and read over a little then; of a
# reader the kernel makes sure by probes, whose intervals may double.
LIMITS = {
    "drip_headers": HEAD_SECONDS,
    "stall_body": IDLE_SECONDS + LINGERING_SECONDS,
    "stop_reading": 2 * IDLE_SECONDS,
}
ATTACKS = {kind: (kind,) for kind in LIMITS} | {"all together": tuple(LIMITS)}


@dataclass
class Attack:
    """Attackers at work."""

    process: asyncio.subprocess.Process
    began_at: float = field(default_factory=time.monotonic)

    async def end(self) -> dict[str, int]:
        """Call the attackers off; return how often what became of them."""
        told, _ = await self.process.communicate(b"")
        outcomes: dict[str, int] = json.loads(told)
        return outcomes


@asynccontextmanager
async def attacking(
    service: ServiceProcess, path: str, kinds: tuple[str, ...], *, repeat: bool = False
) -> AsyncIterator[Attack]:
    """Set ATTACKERS of each kind on the service; the block begins when all are at it."""
    address = urlsplit(service.url)
    script = Path(__file__).with_name("attackers.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(address.hostname), str(address.port), path),
        # Whoever repeats must not sit on connections that the service has given up.
        *(str(2 * IDLE_SECONDS if repeat else 1000), str(int(repeat))),
        *(f"{kind}={ATTACKERS}" for kind in kinds),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield Attack(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Visitor:
    """A well-behaved client: one request after the other, each on a connection of its own."""

    def __init__(self, service: ServiceProcess) -> None:
        self._url = service.url
        self.seconds: list[float] = []

    async def visit(self) -> None:
        """Upload 64 KiB and download them; anything but success raises."""
        content = os.urandom(64 * KIB)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            self._url, connector=connector, timeout=TIMEOUT, raise_for_status=True
        ) as session:
            started = time.perf_counter()
            async with session.post("/files/", data=content) as answer:
                path = answer.headers["Location"]
            async with session.get(path) as answer:
                assert await answer.read() == content
            self.seconds.append(time.perf_counter() - started)

    async def visit_until(self, done: asyncio.Event) -> None:
        """Come again and again."""
        while not done.is_set():
            await self.visit()


def count_sockets(service: ServiceProcess) -> int:
    names = descriptors_of(service.process.pid)
    return len([name for name in names if name.startswith("socket:")])


def find_open_files(service: ServiceProcess, place: Place) -> list[str]:
    names = descriptors_of(service.process.pid)
    return [name for name in names if name.startswith(f"{place.folder}/")]


def find_complaints(service: ServiceProcess) -> list[object]:
    """Log lines that make an error of a client who is slow."""
    lines = service.lines
    return [each for each in lines if "traceback" in each or each["level"] not in {"debug", "info"}]


@asynccontextmanager
async def serving(place: Place) -> AsyncIterator[tuple[ServiceProcess, str]]:
    """Run a service with short limits, and a large file in it; it must not complain."""
    limits = ("--head-seconds", str(HEAD_SECONDS), "--idle-seconds", str(IDLE_SECONDS))
    async with place.serving(*limits) as service:
        async with (
            aiohttp.ClientSession(service.url, timeout=TIMEOUT) as session,
            session.post("/files/", data=io.BytesIO(bytes(LARGE))) as answer,
        ):
            path = answer.headers["Location"]
        for _ in range(5):
            await Visitor(service).visit()
        yield service, path
        assert find_complaints(service) == []
        assert await asyncio.to_thread(service.stop) == 0
    assert await asyncio.to_thread(asyncio.run, audit(place)) == []


async def wait_until_let_go(service: ServiceProcess, place: Place, before: int) -> None:
    """Wait until the service holds nothing for the attackers any more."""

    async def is_free() -> bool:
        return (
            count_sockets(service) <= before
            and not find_open_files(service, place)
            and not place.names("staging")
        )

    await until(is_free, "sockets, files and stages are let go", seconds=30)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kinds", ATTACKS.values(), ids=ATTACKS)
async def test_everybody_else_is_served_while_slow_clients_are_thrown_out_in_time(
    database_url: str, folder: Path, kinds: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(folder, database_url)
    async with serving(place) as (service, path):
        await wait_until_let_go(service, place, before := count_sockets(service))
        visitor, is_over = Visitor(service), asyncio.Event()
        async with attacking(service, path, kinds) as attack:
            held = 0
            visiting = asyncio.create_task(visitor.visit_until(is_over))

            async def are_gone() -> bool:
                nonlocal held
                held = max(held, count := count_sockets(service) - before)
                # Some may be gone before the last are there; and one is the visitor.
                have_come = held >= ATTACKERS * len(kinds) * 0.9
                return visiting.done() or (have_come and count <= 1)

            await until(are_gone, "the attackers are thrown out", seconds=60)
            took = time.monotonic() - attack.began_at
            is_over.set()
            await visiting  # raises what went wrong
            outcomes = await attack.end()
        await wait_until_let_go(service, place, before)
    check_thrown_out(kinds, took, outcomes)
    with capfd.disabled():
        slowest = int(max(visitor.seconds) * 1000)
        report(
            f"slow clients ({', '.join(kinds)})",
            attackers=held,
            ms_until_all_were_gone=int(took * 1000),
            visits_meanwhile=len(visitor.seconds),
            ms_the_slowest_visit_took=slowest,
        )


def check_thrown_out(kinds: tuple[str, ...], took: float, outcomes: dict[str, int]) -> None:
    """All of them were thrown out in time, and were told where they listened."""
    assert took <= max(LIMITS[kind] for kind in kinds) + SLACK_SECONDS
    told = {"drip_headers": "closed", "stall_body": "408"}
    expected = {f"{kind} {told[kind]}": ATTACKERS for kind in kinds if kind in told}
    assert outcomes == expected


# --- how much slower it is for everybody else: measured by `make faults` alone ---

ROUNDS = 6
VISITS = 60


if IS_THOROUGH:  # not skipped elsewhere: CI skips nothing

    @pytest.mark.timeout(900)
    async def test_slow_clients_make_it_at_most_twice_as_slow_for_everybody_else(
        database_url: str, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        place = Place(folder, database_url)
        async with serving(place) as (service, path):
            before = count_sockets(service)
            quiet, attacked = Visitor(service), Visitor(service)
            for _ in range(ROUNDS):  # by turns: the machine has other things to do, too
                await wait_until_let_go(service, place, before)
                for _ in range(VISITS):
                    await quiet.visit()
                async with attacking(service, path, tuple(LIMITS), repeat=True) as attack:
                    for _ in range(VISITS):
                        await attacked.visit()
                    await attack.end()
            await wait_until_let_go(service, place, before)
        calm, hurt = (statistics.median(each.seconds) * 1000 for each in (quiet, attacked))
        with capfd.disabled():
            figures = {"us_median_quiet": int(calm * 1000), "us_median_attacked": int(hurt * 1000)}
            report("a visit beside slow clients", attackers=ATTACKERS * len(LIMITS), **figures)
        assert hurt <= 2 * calm
