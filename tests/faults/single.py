"""One request at a time against a service that may die of it, and what must be true afterwards."""

import asyncio
import hashlib
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.faults.harness import (
    TIMEOUT,
    Ledger,
    Place,
    audit,
    find_violations,
    wait_until_settled,
)
from tests.faults.steps import Steps, killing
from tests.processes import ServiceProcess, service_environment

SIZE = 300_000  # more than one write
SMALL = 5_000  # put whole

Digests = frozenset[str]


@dataclass
class Single:
    """A client that does one thing after the other and keeps a ledger of what it was told.

    What it was told nothing about is looked up when the service is back, and has to stay so.
    """

    place: Place
    chance: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    is_alone: bool = True  # nobody else uploads
    _unanswered: list[Digests] = field(default_factory=list)

    async def upload(self, url: str, *, parts: int = 0, size: int = SIZE) -> str:
        """Upload `size` random bytes; in a form of `parts` files if any. Return an id, or ''."""
        bodies = [self.chance.randbytes(size) for _ in range(parts or 1)]
        digests = [hashlib.sha256(body).hexdigest() for body in bodies]
        self._unanswered.append(frozenset(digests))
        data = _make_form(bodies) if parts else bodies[0]
        answer = await _ask(url, "POST", "/files/", data=data)
        if answer is None or answer[0] == 503:
            return ""
        status, told = answer
        if status != 201:
            self.ledger.unexpected.append(f"upload: {status} {told}")
            return ""
        self._unanswered.pop()
        keys = [file["id"] for file in told] if isinstance(told, list) else [told["id"]]
        self.ledger.uploaded |= dict(zip(keys, digests, strict=True))
        return str(keys[0])

    async def delete(self, url: str, key: str) -> None:
        """Delete a file."""
        self.ledger.doubtful.add(key)
        answer = await _ask(url, "DELETE", f"/files/{key}/")
        if answer is not None and answer[0] == 204:
            self.ledger.deleted.add(key)
        elif answer is not None and answer[0] != 503:
            self.ledger.unexpected.append(f"delete of {key}: {answer}")

    async def find_violations(self, url: str, *, seconds: float = 40) -> list[str]:
        """Wait until the service has recovered; return every promise that it has broken."""
        try:
            await wait_until_settled(self.place, seconds=seconds)
        except AssertionError as error:
            return [f"I5 {error}"]
        found = await self._adopt() + await find_violations(url, self.ledger)
        for key in self.ledger.doubtful - self.ledger.deleted:
            answer = await _ask(url, "GET", f"/files/{key}/info")
            if answer is not None and answer[0] == 404:
                self.ledger.deleted.add(key)
        self.ledger.doubtful.clear()
        return found

    async def audit(self) -> list[str]:
        """Hold rows and blobs against each other from outside."""
        return await audit(self.place)

    async def _adopt(self) -> list[str]:
        """Take files nobody was told of into the ledger: whole requests of ours, or none of it."""
        rows = await self.place.column(
            "SELECT id || ' ' || sha256 FROM file WHERE state = 'ready'"
            if "sqlite" in self.place.database_url
            else "SELECT id::text || ' ' || sha256 FROM file WHERE state = 'ready'"
        )
        stray = dict(row.split() for row in rows)
        for key in self.ledger.uploaded:
            stray.pop(key, None)
        self.ledger.uploaded |= stray
        found = frozenset(stray.values())
        whole: Digests = frozenset().union(*(one for one in self._unanswered if one <= found))
        self._unanswered = []
        is_half = self.is_alone and found != whole
        return [f"I6 files of half a request: {found - whole}"] if is_half else []


async def kill_9(service: ServiceProcess) -> None:
    """Kill the service, also where it is dead already."""
    if service.process.poll() is None:
        await asyncio.to_thread(service.kill_all)


async def wait_for_death(service: ServiceProcess) -> None:
    """Wait for a process that was killed by -9."""
    status = await asyncio.to_thread(service.wait)
    assert status == -signal.SIGKILL, status


async def killed_gc(place: Place, at: int, match: str = "", **variables: str) -> Steps:
    """Run gc, which recovers a store; kill it before its step `at`."""
    return await _killed(["gc", *place.flags], place, at, match, **variables)


async def killed_start(place: Place, at: int, match: str, **variables: str) -> Steps:
    """Start the service, which makes a new store; kill it before its step `at`."""
    return await _killed(["serve", "--port", "0", *place.flags], place, at, match, **variables)


async def _killed(flags: list[str], place: Place, at: int, match: str, **variables: str) -> Steps:
    command = [sys.executable, "-m", "file_service", *flags]
    # It stops itself before it becomes the command, so that no step of that is missed.
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", 'kill -STOP $$; exec "$@"', "sh", *command,
        env=service_environment(**variables), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _until_stopped(process.pid)
        named = match or re.escape(str(place.folder.parent))
        async with killing(process.pid, at=at, match=named) as steps:
            process.send_signal(signal.SIGCONT)
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code == (-signal.SIGKILL if steps.has_killed else 0), (code, steps.last)
    return steps


async def _until_stopped(pid: int) -> None:
    status = Path(f"/proc/{pid}/stat")
    while status.read_text().rpartition(") ")[2][0] != "T":
        await asyncio.sleep(0.005)


async def _ask(url: str, method: str, path: str, **options: Any) -> tuple[int, Any] | None:
    """Send one request; None where the answer did not come whole."""
    headers = {"Accept": "application/json", "Connection": "close"}
    try:
        async with (
            aiohttp.ClientSession(url, timeout=TIMEOUT, headers=headers) as session,
            session.request(method, path, **options) as response,
        ):
            is_json = "json" in response.content_type
            return response.status, await (
                response.json(content_type=None) if is_json else response.text()
            )
    except (aiohttp.ClientError, ConnectionError):
        return None


def _make_form(bodies: list[bytes]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for number, body in enumerate(bodies):
        form.add_field("file", body, filename=f"{number}.bin")
    return form
