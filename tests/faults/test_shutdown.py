"""SIGTERM under load: what can end ends whole, the rest is cut, and exit 0 is in time."""

import asyncio
import hashlib
import http.client
import random
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.faults.harness import (
    IS_THOROUGH,
    Ledger,
    Place,
    audit,
    find_violations,
    report,
    wait_until_settled,
)
from tests.processes import ServiceProcess

GRACE = 3.0 if IS_THOROUGH else 2.0
SLACK = 2.0
EACH = 20
ROUNDS = 5 if IS_THOROUGH else 1
LARGE = 12 * 1024 * 1024

# Nothing here depends on which database it is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Transfers:
    """Slow uploads and downloads, half of which can end in time."""

    content: bytes
    path: str = ""
    ledger: Ledger = field(default_factory=Ledger)
    started: int = 0
    whole: int = 0
    cut: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def upload(self, session: aiohttp.ClientSession, number: int) -> None:
        """Send half of a body; the rest once the service is stopping, or when it is too late."""
        body = random.Random(number).randbytes(600_000)

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:300_000]
            self.started += 1
            await self.go.wait()
            await (self.ended.wait() if number % 2 else asyncio.sleep(0.05 * number))
            yield body[300_000:]

        try:
            async with session.post("/files/", data=slowly()) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, ConnectionError):
            self._note_cut(number, "upload")
            return
        if answer.status == 201:
            self.ledger.uploaded[text] = hashlib.sha256(body).hexdigest()
            self.whole += 1
        elif answer.status in {400, 408, 503}:
            self._note_cut(number, "upload")
        else:
            self.wrong.append(f"upload {number}: {answer.status} {text}")

    async def download(self, session: aiohttp.ClientSession, number: int) -> None:
        """Read a little; the rest once the service is stopping, or when it is too late."""
        async with session.get(self.path) as answer:
            body = await answer.content.readexactly(65536)
            self.started += 1
            await self.go.wait()
            if number % 2:
                await self.ended.wait()
            try:
                body += await answer.read()
            except (aiohttp.ClientError, ConnectionError):
                self._note_cut(number, "download")
                return
        if body == self.content:
            self.whole += 1
        else:
            self.wrong.append(f"download {number} ended, with {len(body)} bytes")

    def _note_cut(self, number: int, what: str) -> None:
        self.cut.append(what)
        if number % 2 == 0:
            self.wrong.append(f"{what} {number} was cut, though it could have ended in time")


class KeptAlive:
    """A connection that was there before."""

    def __init__(self, service: ServiceProcess) -> None:
        address = urlsplit(service.url)
        self._connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=5
        )
        assert self.ask() == "200"

    def ask(self) -> str:
        """What readyz says, or how the connection ended."""
        try:
            if self._connection.sock is None and hasattr(self, "_was_asked"):
                return "closed"
            self._was_asked = True
            self._connection.request("GET", "/readyz")
            answer = self._connection.getresponse()
            answer.read()
        except (ConnectionError, http.client.HTTPException):
            return "closed"
        return str(answer.status)

    def close(self) -> None:
        self._connection.close()


def call_anew(service: ServiceProcess) -> str:
    """What a new connection meets: refused, closed, an answer's status, or nothing at all."""
    address = urlsplit(service.url)
    try:
        with socket.create_connection((address.hostname, address.port or 0), 1) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return sock.recv(65536)[9:12].decode() or "closed"
    except TimeoutError:
        return "left to wait"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionError:
        return "closed"


@dataclass
class Stop:
    """What was seen from SIGTERM to the end."""

    status: int
    seconds: float
    kept_alive: list[str]
    anew: list[str]


async def stop(service: ServiceProcess, workers: int, transfers: Transfers) -> Stop:
    """SIGTERM, a look round while it drains, a second SIGTERM, and the end."""
    kept = [await asyncio.to_thread(KeptAlive, service) for _ in range(4)]
    begun = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(service.wait_for, "worker stopping", workers)
    transfers.go.set()
    asked = await asyncio.gather(*(asyncio.to_thread(each.ask) for each in kept))
    anew = await asyncio.gather(*(asyncio.to_thread(call_anew, service) for _ in range(4)))
    service.process.send_signal(signal.SIGTERM)
    try:
        status = await asyncio.to_thread(service.wait, seconds=4 * GRACE + 10)
        return Stop(status, time.monotonic() - begun, asked, anew)
    finally:
        for each in kept:
            each.close()


async def run_round(place: Place, workers: int, transfers: Transfers) -> Stop:
    """Start, load, stop, and wait for every client's end."""
    flags = ("--workers", str(workers), "--grace-seconds", str(GRACE))
    connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_open_narrow)
    timeout = aiohttp.ClientTimeout(total=60)
    async with place.serving(*flags) as service:
        async with aiohttp.ClientSession(
            service.url, connector=connector, timeout=timeout
        ) as session:
            async with session.post("/files/", data=_pieces(transfers.content)) as answer:
                transfers.path = answer.headers["Location"]
            key = transfers.path.split("/")[2]
            transfers.ledger.uploaded[key] = hashlib.sha256(transfers.content).hexdigest()
            tasks = [
                asyncio.create_task(work(session, number))
                for number in range(EACH)
                for work in (transfers.upload, transfers.download)
            ]
            while transfers.started < 2 * EACH or len(place.names("staging")) < EACH:
                assert not any(task.done() for task in tasks), transfers
                await asyncio.sleep(0.02)
            seen = await stop(service, workers, transfers)
            transfers.ended.set()
            await asyncio.gather(*tasks)
        complaints = [line for line in service.lines if "traceback" in line]
        assert complaints == [], str(complaints)[:2000]
    return seen


def _open_narrow(info: Any) -> socket.socket:
    """Open a socket that does not swallow a whole download by itself."""
    sock = socket.socket(*info[:3])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    return sock


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 20):
        yield content[start : start + (1 << 20)]


async def check_afterwards(place: Place, ledger: Ledger) -> None:
    """Start again: all that was acknowledged is there, and nothing else is."""
    async with place.serving() as service:
        await wait_until_settled(place)
        assert await find_violations(service.url, ledger) == []
        rows = await place.column("SELECT id FROM file WHERE state = 'ready'")
        assert sorted(rows) == sorted(ledger.uploaded), "more is there than was acknowledged"
    assert await asyncio.to_thread(asyncio.run, audit(place)) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_under_load_loses_nothing_and_ends_in_time(
    database_url: str, folder: Path, workers: int
) -> None:
    place, ledger = Place(folder, database_url), Ledger()
    content = random.Random(0).randbytes(LARGE)
    rounds = []
    for _ in range(ROUNDS):
        transfers = Transfers(content, ledger=ledger)
        rounds.append((await run_round(place, workers, transfers), transfers))
    await check_afterwards(place, ledger)
    for seen, transfers in rounds:
        report(
            f"SIGTERM, {workers} workers",
            whole=transfers.whole,
            cut=len(transfers.cut),
            ms_to_end=int(seen.seconds * 1000),
        )
    for seen, transfers in rounds:
        assert seen.status == 0
        assert transfers.wrong == []
        assert transfers.whole == len(transfers.cut) == EACH
        assert set(seen.anew) <= {"refused", "closed", "503"}, seen
        assert set(seen.kept_alive) == {"503"}, seen
        assert seen.seconds <= GRACE + SLACK, seen


@pytest.mark.parametrize("workers", [1, 2])
async def test_any_number_of_sigterms_is_one(database_url: str, folder: Path, workers: int) -> None:
    place = Place(folder, database_url)
    for _ in range(ROUNDS):
        async with place.serving("--workers", str(workers)) as service:
            sent = 0
            while service.process.poll() is None:
                with suppress(ProcessLookupError):
                    service.process.send_signal(signal.SIGTERM)
                sent += 1
                await asyncio.sleep(0.002)
            assert service.process.returncode == 0, f"after {sent} signals"
    report(f"SIGTERM again and again, {workers} workers", rounds=ROUNDS, signals=sent)
