"""Load on a service that is about to be hurt, and what must hold afterwards.

I1 every acknowledged upload is served byte for byte · I2 every acknowledged delete stays gone ·
I3 nothing is served that does not match its digest · I5 after recovery no orphan, stage or note
remains · I6 unacknowledged work is all or nothing.
"""

import asyncio
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import sqlalchemy as sa

from file_service.blobs.folder import SENTINEL
from file_service.catalogue.engine import connect
from tests.processes import ServiceProcess, running_service, service_environment

# `make faults` sets it: everything, not the part that fits into `make test`.
IS_THOROUGH = os.environ.get("FILE_SERVICE_TEST_THOROUGH") == "1"

TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass
class Ledger:
    """What a client was told: kept outside of everything that may break."""

    uploaded: dict[str, str] = field(default_factory=dict)  # id → SHA-256, acknowledged by 201
    deleted: set[str] = field(default_factory=set)  # acknowledged by 204
    doubtful: set[str] = field(default_factory=set)  # a delete without an answer: either way
    unexpected: list[str] = field(default_factory=list)  # answers that break a promise at once

    @property
    def living(self) -> dict[str, str]:
        """Files that must be there."""
        gone = self.deleted | self.doubtful
        return {key: digest for key, digest in self.uploaded.items() if key not in gone}


class Load:
    """Clients that upload, download and delete, and write down what they were told."""

    def __init__(self, url: str, ledger: Ledger, *, seed: int, largest: int = 400_000) -> None:
        self._url = url
        self._ledger = ledger
        self._random = random.Random(seed)
        self._largest = largest

    async def run(self, *, writers: int = 8, readers: int = 4, seconds: float = 1.0) -> None:
        """Load the service for a while; a connection that breaks is what is expected."""
        end = time.monotonic() + seconds
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(
            self._url, timeout=TIMEOUT, connector=connector
        ) as session:
            work = [self._until(end, self.upload, session) for _ in range(writers)]
            work += [self._until(end, self._read, session) for _ in range(readers)]
            work += [self._until(end, self._delete, session) for _ in range(max(1, writers // 4))]
            await asyncio.gather(*work)

    async def _until(self, end: float, act: Any, session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            # AttributeError: aiohttp's client, when a connection breaks as its request is sent
            # (ClientResponse.start meets a connection without protocol). Nothing was answered.
            with suppress(aiohttp.ClientError, TimeoutError, ConnectionError, AttributeError):
                await act(session)
            await asyncio.sleep(0.001)

    async def upload(self, session: aiohttp.ClientSession) -> None:
        """Upload random bytes, chunked or with a length."""
        body = self._random.randbytes(self._random.choice([0, 1, 5_000, 70_000, self._largest]))
        data: Any = body if self._random.random() < 0.5 else _chunked(body)
        async with session.post("/files/", data=data) as response:
            text = await response.text()
        if response.status == 201:
            self._ledger.uploaded[text] = hashlib.sha256(body).hexdigest()
        elif response.status not in {503, 507}:
            self._ledger.unexpected.append(f"upload: {response.status} {text}")

    async def _delete(self, session: aiohttp.ClientSession) -> None:
        candidates = list(self._ledger.living)
        if not candidates or self._random.random() < 0.5:
            return
        key = self._random.choice(candidates)
        self._ledger.doubtful.add(key)
        async with session.delete(f"/files/{key}/") as response:
            if response.status == 204:
                self._ledger.deleted.add(key)
            elif response.status not in {503, 507}:
                self._ledger.unexpected.append(f"delete of {key}: {response.status}")

    async def _read(self, session: aiohttp.ClientSession) -> None:
        candidates = list(self._ledger.living.items())
        if not candidates:
            return
        key, digest = self._random.choice(candidates)
        async with session.get(f"/files/{key}/") as response:
            body = await response.read()
        if key in self._ledger.doubtful:
            return  # deleted meanwhile
        if response.status == 200:
            if hashlib.sha256(body).hexdigest() != digest:
                self._ledger.unexpected.append(f"{key} was served with other bytes")
        elif response.status != 503:
            self._ledger.unexpected.append(f"read of {key}: {response.status} {body[:200]!r}")


async def _chunked(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 16_000):
        yield body[start : start + 16_000]


@dataclass(frozen=True)
class Place:
    """Where a service under test keeps its files and rows."""

    folder: Path
    database_url: str

    @property
    def flags(self) -> list[str]:
        return ["--dir", str(self.folder), "--database-url", self.database_url]

    @asynccontextmanager
    async def serving(self, *flags: str, **variables: str) -> AsyncIterator[ServiceProcess]:
        """Run a service here; it ends with the block, however the block ends."""
        named = ("--grace-seconds", "5", *flags)
        service = await asyncio.to_thread(running_service, *self.flags, *named, **variables)
        try:
            yield service
        finally:
            await asyncio.to_thread(service.end)

    def run(self, command: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run one of the other commands here."""
        return subprocess.run(
            [sys.executable, "-m", "file_service", command, *self.flags, *flags],
            capture_output=True,
            text=True,
            check=False,
            env=service_environment(),
        )

    def names(self, folder: str) -> list[str]:
        """The names of all files below one of the store's folders."""
        found = (self.folder / folder).rglob("*")
        return sorted(path.name for path in found if path.is_file() and path.name != SENTINEL)

    async def column(self, query: str) -> list[Any]:
        """The first column of a query on the catalogue."""
        engine = connect(self.database_url)
        try:
            values = await engine.read(lambda found: found.scalars(sa.text(query)).all())
            return [str(value) if isinstance(value, UUID) else value for value in values]
        finally:
            await engine.dispose()


async def wait_until_settled(place: Place, *, seconds: float = 40) -> None:
    """Wait until recovery has left neither stage nor note."""
    deadline = time.monotonic() + seconds
    while place.names("staging") or await place.column("SELECT id FROM removal"):
        if time.monotonic() > deadline:
            notes = await place.column("SELECT id FROM removal")
            raise AssertionError(f"not settled: {place.names('staging')} {notes}")
        await asyncio.sleep(0.05)


async def find_violations(url: str, ledger: Ledger) -> list[str]:
    """Ask a running service for everything the ledger knows; return each broken promise."""
    found = list(ledger.unexpected)
    async with aiohttp.ClientSession(url, timeout=TIMEOUT) as session:
        for key, digest in ledger.uploaded.items():
            async with session.get(f"/files/{key}/") as response:
                body = await response.read()
            is_right = response.status == 200 and hashlib.sha256(body).hexdigest() == digest
            if key in ledger.deleted:
                if response.status != 404:
                    found.append(f"I2 {key} is back: {response.status}")
            elif key in ledger.doubtful:
                if response.status != 404 and not is_right:
                    found.append(f"I6 {key} is neither whole nor gone: {response.status}")
            elif not is_right:
                found.append(f"I1 {key} is lost: {response.status} {len(body)}")
    return found


async def audit(place: Place) -> list[str]:
    """Hold rows and blobs against each other from outside the service; return what differs."""
    rows = sorted(await place.column("SELECT id FROM file WHERE state = 'ready'"))
    blobs = place.names("blobs")
    found = []
    if rows != blobs:
        found.append(
            f"I5 rows without blob {set(rows) - set(blobs)}, orphans {set(blobs) - set(rows)}"
        )
    if place.names("staging"):
        found.append(f"I5 stages {place.names('staging')}")
    if notes := await place.column("SELECT id FROM removal"):
        found.append(f"I5 notes {notes}")
    scrub = place.run("scrub", "--json")
    if scrub.returncode != 0:
        found.append(f"I3 scrub: {scrub.stdout}{scrub.stderr}")
    return found


def report(fault: str, **figures: int) -> None:
    """Tell what was tried: `make faults` shows it, and the operator's page has the last figures."""
    told = ", ".join(f"{count} {what}" for what, count in figures.items())
    sys.stderr.write(f"\n{fault}: {told}\n")
