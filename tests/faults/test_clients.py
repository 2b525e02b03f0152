"""Clients that vanish at any byte: nothing of theirs is seen, stays, or is made an error of."""

import asyncio
import hashlib
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from file_service.blobs.puts import SYNCS, TURNS
from file_service.catalogue.engine import READERS
from file_service.core.hashing import HASHERS
from file_service.server import DISK_THREADS
from file_service.web.sendfile import SENDERS
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

CLIENTS = 5_000 if IS_THOROUGH else 300
AT_ONCE = 50
DELETED = 1_000 if IS_THOROUGH else 30
LARGE = 8 * 1024 * 1024
SETTLE_SECONDS = 10

# Without RST or FIN the service cannot know: that long the vanished say nothing before they close.
LONGEST_SILENCE = 1.0

# The embedded catalogue's connections open on demand, one for each of its threads: those that read
# and the one that writes. SQLite closes their files when it likes.
MOST_SESSIONS = READERS + 1
FILES_OF_SESSION = 3

# Threads start on demand and stay: the executor's, those that hash, the senders', those of puts and
# of their syncs, the embedded catalogue's, the loop's own.
MOST_THREADS = DISK_THREADS + HASHERS + SENDERS + TURNS + 1 + SYNCS + 1

WAYS = ("raw", "chunked", "form", "download")
LEAVES = ("fin", "reset", "silence")


def make_raw(chance: random.Random, name: str) -> bytes:
    body = chance.randbytes(chance.choice([1, 3_000, 300_000]))
    head = (
        f"POST /files/?filename={name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def make_chunked(chance: random.Random, name: str) -> bytes:
    head = f"POST /files/?filename={name} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [chance.randbytes(chance.randrange(1, 70_000)) for _ in range(chance.randrange(1, 5))]
    return head.encode() + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"


def make_form(chance: random.Random, name: str) -> bytes:
    parts = b"--b\r\nContent-Disposition: form-data; name=t\r\n\r\nx\r\n"
    for number in range(chance.randrange(1, 4)):
        disposition = f'form-data; name="f"; filename="{name}-{number}"'
        parts += f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        parts += chance.randbytes(chance.choice([0, 2_000, 90_000])) + b"\r\n"
    body = parts + b"--b--\r\n"
    head = "POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


MAKE = {"raw": make_raw, "chunked": make_chunked, "form": make_form}


class Vanishing:
    """Clients who send a part of a request, or read a part of an answer, and are gone."""

    def __init__(self, service: ServiceProcess, path: str, seed: int) -> None:
        address = urlsplit(service.url)
        self._address = (address.hostname, address.port)
        self._path = path
        self._random = random.Random(seed)
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.counts = dict.fromkeys((*WAYS, *LEAVES), 0)

    async def one(self, number: int) -> None:
        """Do it once, in a way of this number."""
        way, leave = WAYS[number % len(WAYS)], LEAVES[number // len(WAYS) % len(LEAVES)]
        chance = random.Random(self._random.getrandbits(64))
        self.counts[way] += 1
        self.counts[leave] += 1
        async with self._gate:
            loop, sock = asyncio.get_running_loop(), socket.socket()
            sock.setblocking(False)
            with suppress(ConnectionError), sock:
                await loop.sock_connect(sock, self._address)
                if way == "download":
                    await self._read_some(sock, chance)
                else:
                    request = MAKE[way](chance, f"vanished-{number}")
                    await loop.sock_sendall(sock, request[: chance.randrange(len(request))])
                await self._leave(sock, leave, chance)

    async def _read_some(self, sock: socket.socket, chance: random.Random) -> None:
        loop = asyncio.get_running_loop()
        request = f"GET {self._path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        if chance.random() < 0.1:
            request = request[: chance.randrange(len(request))]
        await loop.sock_sendall(sock, request)
        left = chance.choice([0, 1, 200, chance.randrange(LARGE), LARGE])
        while left > 0 and request.endswith(b"\r\n\r\n"):
            got = await loop.sock_recv(sock, min(left, 65536))
            left -= len(got) or left

    @staticmethod
    async def _leave(sock: socket.socket, how: str, chance: random.Random) -> None:
        if how == "silence":
            await asyncio.sleep(chance.uniform(0, LONGEST_SILENCE))
        if how == "reset" or chance.random() < 0.2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "fin" and chance.random() < 0.5:
            sock.shutdown(socket.SHUT_WR)


def find_open_files(process: Path) -> list[str]:
    """Return what each of a process's descriptors is of, as /proc names it."""
    found = []
    for descriptor in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(descriptor.readlink()))
    return found


@dataclass(frozen=True)
class Holdings:
    """What a process has in its hands; `embedded` are the descriptors of an embedded catalogue."""

    descriptors: int
    embedded: int
    threads: int
    sessions: int

    @classmethod
    async def of(cls, service: ServiceProcess, place: Place) -> "Holdings":
        process = Path(f"/proc/{service.process.pid}")
        sessions = 0
        if place.database_url.startswith("postgresql"):
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            sessions = len(await place.column(f"{query} AND pid <> pg_backend_pid()"))
        files = find_open_files(process)
        embedded = [
            name
            for name in files
            if place.database_url.endswith(name.removesuffix("-wal").removesuffix("-shm"))
        ]
        threads = len(list((process / "task").iterdir()))
        return cls(len(files) - len(embedded), len(embedded), threads, sessions)

    @property
    def embedded_threads(self) -> int:
        """How many threads an embedded catalogue may have; another one has none here."""
        return MOST_SESSIONS if self.embedded else 0

    def is_within(self, other: "Holdings") -> bool:
        return (
            self.descriptors <= other.descriptors
            and self.embedded <= max(other.embedded, MOST_SESSIONS * FILES_OF_SESSION)
            and self.threads <= max(other.threads, MOST_THREADS + self.embedded_threads)
            and self.sessions <= other.sessions
        )


async def warm_up(session: aiohttp.ClientSession, path: str) -> None:
    """Fill every pool: from here on nothing more is needed by as many clients."""

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(100_000)
            await asyncio.sleep(0.05)

    async def one() -> None:
        async with session.post("/files/", data=slowly()) as answer:
            assert answer.status == 201
            key = await answer.text()
        async with session.get(path) as answer:
            await answer.read()
        async with session.delete(f"/files/{key}/") as answer:
            assert answer.status == 204

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))


async def wait_until_let_go(service: ServiceProcess, place: Place, before: Holdings) -> float:
    """Wait until the service holds no more than before; return how long that took."""
    started = time.monotonic()
    while not (now := await Holdings.of(service, place)).is_within(before) or place.names(
        "staging"
    ):
        left = place.names("staging")
        assert time.monotonic() - started < SETTLE_SECONDS, f"{before} became {now}, {left}"
        await asyncio.sleep(0.05)
    return time.monotonic() - started


def find_complaints(service: ServiceProcess) -> list[object]:
    """Log lines that make an error of a client who left."""
    return [
        line
        for line in service.lines
        if "traceback" in line
        or "never retrieved" in str(line)
        or line["level"] not in {"debug", "info"}
    ]


async def run_clients(service: ServiceProcess, place: Place, seed: int) -> tuple[Vanishing, float]:
    """Have all the clients come and vanish; return what they did, and how soon it was forgotten."""
    content = random.Random(seed).randbytes(LARGE)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(service.url, connector=connector) as session:
        async with session.post("/files/", data=_pieces(content)) as answer:
            path = answer.headers["Location"]
        await warm_up(session, path)
        await wait_until_settled(place)
        before = await Holdings.of(service, place)
        vanishing = Vanishing(service, path, seed)
        await asyncio.gather(*(vanishing.one(number) for number in range(CLIENTS)))
        took = await wait_until_let_go(service, place, before)
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        key = path.split("/")[2]
        assert await place.column("SELECT id FROM file WHERE state = 'ready'") == [key]
        ledger = Ledger(uploaded={key: hashlib.sha256(content).hexdigest()})
        assert await find_violations(service.url, ledger) == []
    return vanishing, took


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 20):
        yield content[start : start + (1 << 20)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "database_url", ["sqlite", "postgresql"] if IS_THOROUGH else ["postgresql"], indirect=True
)
async def test_clients_that_vanish_at_any_byte_leave_nothing(
    database_url: str, folder: Path, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(folder, database_url)
    async with place.serving() as service:
        quiet = len(service.lines)
        try:
            vanishing, took = await run_clients(service, place, seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        del service.lines[:quiet]  # the start may warn of a database that is quick, not durable
        assert find_complaints(service) == [], f"seed {seed}"
        assert await asyncio.to_thread(service.stop) == 0
    assert await asyncio.to_thread(asyncio.run, audit(place)) == [], f"seed {seed}"
    assert "never retrieved" not in capfd.readouterr().err
    with capfd.disabled():
        report("vanishing clients", **vanishing.counts, ms_to_let_go=int(took * 1000))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_file_deleted_while_it_is_asked_for_is_whole_or_not_there(
    database_url: str, folder: Path
) -> None:
    place, body = Place(folder, database_url), b"x" * 1000
    found: Counter[int] = Counter()
    async with (
        place.serving() as service,
        aiohttp.ClientSession(service.url, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):

        async def read_until_gone(path: str) -> None:
            status = 200
            while status != 404:
                async with session.get(path) as answer:
                    assert await answer.read() == body or answer.status != 200
                    status = answer.status
                    found[status] += 1

        for number in range(DELETED):
            async with session.post("/files/", data=body) as answer:
                path = answer.headers["Location"]
            readers = [asyncio.create_task(read_until_gone(path)) for _ in range(6)]
            await asyncio.sleep(0.001 * (number % 10))
            async with session.delete(path) as answer:
                assert answer.status == 204
            await asyncio.gather(*readers)
        assert set(found) <= {200, 404}, found
        assert find_complaints(service) == []
    report("files deleted while read", files=DELETED, whole=found[200], gone=found[404])
