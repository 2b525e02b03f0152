"""Two services on one folder and one PostgreSQL: what kills the one does not touch the other."""

import asyncio
import ctypes
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from tests.faults.harness import (
    IS_THOROUGH,
    TIMEOUT,
    Ledger,
    Load,
    Place,
    audit,
    find_violations,
    report,
    wait_until_settled,
)
from tests.faults.own_postgres import OwnPostgres, own_postgres
from tests.processes import ServiceProcess, service_environment

CYCLES = 30 if IS_THOROUGH else 2
SLOW = 5
LOAD_SECONDS = 1.0 if IS_THOROUGH else 0.6

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Host:
    """Where one service runs: the address it has, and the one by which it sees the database."""

    address: str = "127.0.0.1"
    database_host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()

    def start(self, folder: Path, server: OwnPostgres, database: str) -> ServiceProcess:
        """Start a service here; blocks until it works."""
        url = server.url(database).replace(server.host, self.database_host)
        flags = ["--host", self.address, "--port", "0", "--grace-seconds", "5"]
        flags += ["--dir", str(folder), "--database-url", url]
        process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "file_service", "serve", *flags],
            stdout=subprocess.PIPE,
            env=service_environment(),
        )
        service = ServiceProcess(process)
        threading.Thread(target=service.read_lines, daemon=True).start()
        try:
            line = service.wait_for("listening on ")[0]
            service.url = str(line["message"]).removeprefix("listening on ")
            service.wait_for("worker started")
        except BaseException:
            service.end()
            raise
        return service


@contextmanager
def machines() -> Iterator[list[Host]]:
    """Two network namespaces, each with a wire to a third, which this thread is in meanwhile."""
    tag = uuid4().hex[:8]
    names = [f"fs-{tag}-{name}" for name in ("a", "b", "db")]
    hub = names[2]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
        _ip("-n", hub, "link", "set", "lo", "up")
        for number, name in enumerate(names[:2], 1):
            wire = ("link", "add", f"w{number}", "type", "veth", "peer", "name", "w0")
            _ip("-n", hub, *wire, "netns", name)
            _set_up(hub, f"w{number}", f"10.213.{number}.1/24")
            _set_up(name, "w0", f"10.213.{number}.2/24")
            _ip("-n", name, "link", "set", "lo", "up")
        stack.enter_context(_inside(Path("/run/netns") / hub))
        yield [
            Host(f"10.213.{n}.2", f"10.213.{n}.1", ("ip", "netns", "exec", name))
            for n, name in enumerate(names[:2], 1)
        ]


def _set_up(namespace: str, wire: str, address: str) -> None:
    _ip("-n", namespace, "address", "add", address, "dev", wire)
    _ip("-n", namespace, "link", "set", wire, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def _inside(namespace: Path) -> Iterator[None]:
    """Have this thread's new sockets, and its children's, be in another network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(namespace)
        yield
    finally:
        _enter(Path(f"/proc/self/fd/{before}"))
        os.close(before)


def _enter(namespace: Path) -> None:
    fd = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(namespace))
    finally:
        os.close(fd)


@dataclass
class Pair:
    """Two services; one of them is killed again and again, the other must not notice."""

    hosts: list[Host]
    server: OwnPostgres
    folder: Path
    seed: int
    ledger: Ledger = field(default_factory=Ledger)
    database: str = ""
    services: list[ServiceProcess] = field(default_factory=list)
    kills: int = 0
    slow: int = 0
    across: int = 0

    @property
    def place(self) -> Place:
        return Place(self.folder, self.server.url(self.database))

    async def start(self, number: int) -> ServiceProcess:
        """Start the service of one host."""
        host = self.hosts[number]
        return await asyncio.to_thread(host.start, self.folder, self.server, self.database)

    async def live(self) -> None:
        """Load on both; kill one at random moments, while slow uploads run through the other."""
        chance = random.Random(self.seed)
        for cycle in range(CYCLES):
            dying = chance.randrange(2)
            living = self.services[1 - dying]
            stopped = asyncio.Event()
            slow = [asyncio.create_task(self._upload_slowly(living, stopped)) for _ in range(SLOW)]
            loads = [
                asyncio.create_task(
                    Load(service.url, self.ledger, seed=cycle).run(writers=4, seconds=LOAD_SECONDS)
                )
                for service in self.services
            ]
            await asyncio.sleep(chance.uniform(0.2, 0.5))
            self.services[dying].process.kill()
            await asyncio.to_thread(self.services[dying].process.wait)
            self.services[dying].end()
            self.kills += 1
            self.services[dying] = await self.start(dying)
            await wait_until_recovered(self.folder)
            await asyncio.gather(*loads)
            stopped.set()
            await asyncio.gather(*slow)
            await self._delete_across(chance)

    async def _upload_slowly(self, service: ServiceProcess, stopped: asyncio.Event) -> None:
        """Upload for as long as the other is killed and recovers; it must end in 201."""
        body = os.urandom(200_000)

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:100_000]
            await stopped.wait()
            yield body[100_000:]

        async with (
            aiohttp.ClientSession(service.url, timeout=TIMEOUT) as session,
            session.post("/files/", data=slowly()) as answer,
        ):
            text = await answer.text()
        assert answer.status == 201, f"seed {self.seed}: {answer.status} {text}"
        self.ledger.uploaded[text] = hashlib.sha256(body).hexdigest()
        self.slow += 1

    async def _delete_across(self, chance: random.Random) -> None:
        """What is deleted through the one is not there through the other, at once."""
        first, second = chance.sample(self.services, 2)
        async with (
            aiohttp.ClientSession(first.url, timeout=TIMEOUT) as here,
            aiohttp.ClientSession(second.url, timeout=TIMEOUT) as there,
        ):
            for key in chance.sample(sorted(self.ledger.living), 5):
                assert await _status(there.get(f"/files/{key}/")) == 200, f"seed {self.seed}"
                assert await _status(here.delete(f"/files/{key}/")) == 204, f"seed {self.seed}"
                self.ledger.deleted.add(key)
                for session in (there, here):
                    assert await _status(session.get(f"/files/{key}/")) == 404, f"seed {self.seed}"
                self.across += 1

    async def check(self) -> None:
        """Through both: nothing was lost, and nothing is left."""
        await wait_until_settled(self.place)
        for service in self.services:
            found = await find_violations(service.url, self.ledger)
            assert found == [], f"seed {self.seed}"
            traces = [line["traceback"] for line in service.lines if "traceback" in line]
            assert traces == [], f"seed {self.seed}: {traces[0]}"
        assert await asyncio.to_thread(asyncio.run, audit(self.place)) == [], f"seed {self.seed}"


async def _status(request: Awaitable[aiohttp.ClientResponse]) -> int:
    answer = await request
    await answer.read()
    return answer.status


async def wait_until_recovered(folder: Path) -> None:
    """Wait until every stage that nobody living holds is gone."""
    deadline = time.monotonic() + 10
    while left := _find_abandoned(folder / "staging"):
        assert time.monotonic() < deadline, f"recovery has left {left}"
        await asyncio.sleep(0.05)


def _find_abandoned(staging: Path) -> list[str]:
    with os.scandir(staging) as entries:
        inodes = {entry.inode(): entry.name for entry in entries if entry.name[0] != "."}
    locks = Path("/proc/locks").read_text().splitlines()
    held = {int(line.split()[-3].rpartition(":")[2]) for line in locks}
    # Those that are new, or have ended meanwhile, are not abandoned.
    there = {path.name for path in staging.iterdir()}
    return sorted(name for inode, name in inodes.items() if inode not in held and name in there)


async def run_pair(pair: Pair) -> None:
    """Start both, let them live, check, and end them."""
    pair.database = await asyncio.to_thread(pair.server.make_database)
    try:
        for number in range(2):
            pair.services.append(await pair.start(number))
        await pair.live()
        await pair.check()
    finally:
        for service in pair.services:
            await asyncio.to_thread(service.end)
    assert pair.slow == CYCLES * SLOW
    report(
        "two services",
        kills=pair.kills,
        uploads=len(pair.ledger.uploaded),
        deletes=len(pair.ledger.deleted),
        slow_uploads=pair.slow,
        seen_gone_at_once=pair.across,
    )


@pytest.mark.timeout(900)
async def test_two_processes_share_a_store_while_either_is_killed(folder: Path, seed: int) -> None:
    # No power is cut here, and what a process wrote before it was killed is there.
    with own_postgres(fsync="off") as server:
        await run_pair(Pair([Host(), Host()], server, folder, seed))


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("as_root")
async def test_two_machines_share_a_store_while_either_is_killed(
    folder: Path, seed: int, needs: Callable[..., None]
) -> None:
    if not IS_THOROUGH:
        pytest.skip("two processes are tried above; two machines by make faults")
    needs("ip")
    with machines() as hosts, own_postgres(host="0.0.0.0", fsync="off") as server:
        await run_pair(Pair(hosts, server, folder, seed))
