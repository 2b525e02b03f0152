"""Callers who hear an answer however early it comes; what a service in trouble must tell them."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.conftest import descriptors_of
from tests.faults.harness import (
    IS_THOROUGH,
    Ledger,
    Place,
    audit,
    find_violations,
    wait_until_settled,
)
from tests.processes import ServiceProcess
from tests.wire import Answer, Wire

MIB = 1024 * 1024
WAYS = ("chunked", "length", "form", "put")

_PIECE = 64 * 1024


class Caller:
    """Sends one request per connection, and writes down what was acknowledged."""

    def __init__(self, service: ServiceProcess, ledger: Ledger) -> None:
        self.service = service
        self.ledger = ledger

    async def ask(
        self, method: str, path: str, headers: str = "", body: Iterable[bytes] = ()
    ) -> Answer:
        """Send a request while listening: an answer may come before the body's end."""
        address = urlsplit(self.service.url)
        wire = Wire(*await asyncio.open_connection(address.hostname, address.port))
        head = f"{method} {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode()
        sending = asyncio.create_task(wire.send(head, *body))
        try:
            return await wire.receive()
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await sending
            await wire.close()

    async def upload(self, size: int = MIB, way: str = "chunked") -> Answer:
        """Upload random bytes in one of WAYS."""
        content = os.urandom(size)
        answer = await self.ask(*make_upload(content, way))
        if answer.status == 201:
            self.ledger.uploaded[answer.body.decode()] = hashlib.sha256(content).hexdigest()
        return answer

    async def announce(self, length: int) -> Answer:
        """Send the head of an upload, and nothing of its body."""
        return await self.ask("POST", "/files/", f"Content-Length: {length}\r\n")

    async def get(self, key: str) -> Answer:
        """Download a file; an answer that ends early raises."""
        return await self.ask("GET", f"/files/{key}/")

    async def delete(self, key: str) -> Answer:
        """Delete a file."""
        answer = await self.ask("DELETE", f"/files/{key}/")
        if answer.status == 204:
            self.ledger.deleted.add(key)
        return answer

    async def why_not_ready(self) -> str:
        """Ask how the service is: what readyz says is wrong, '' where nothing is."""
        assert (await self.ask("GET", "/healthz")).status == 200
        answer = await self.ask("GET", "/readyz")
        if answer.status == 200:
            return ""
        check_refusal(answer, 503, "unavailable")
        return str(answer.problem["detail"])

    async def until_red(self, reason: str) -> None:
        """Wait until readyz names the reason; five seconds are what is promised."""

        async def is_red() -> bool:
            return reason in await self.why_not_ready()

        await until(is_red, f"readyz says {reason!r}", seconds=5)

    async def until_ready(self, seconds: float = 5) -> None:
        """Wait until the service is ready again by itself."""

        async def is_ready() -> bool:
            return await self.why_not_ready() == ""

        await until(is_ready, "readyz is green", seconds=seconds)


def make_upload(content: bytes, way: str) -> tuple[str, str, str, list[bytes]]:
    """Return method, path, headers and body of an upload in one of WAYS."""
    pieces = [content[at : at + _PIECE] for at in range(0, len(content), _PIECE)]
    length = f"Content-Length: {len(content)}\r\n"
    if way == "chunked":
        framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        return "POST", "/files/", "Transfer-Encoding: chunked\r\n", [*framed, b"0\r\n\r\n"]
    if way == "length":
        return "POST", "/files/", length, pieces
    if way == "put":
        return "PUT", "/files/report.bin", length, pieces
    before = b'--x\r\nContent-Disposition: form-data; name="f"; filename="report.bin"\r\n\r\n'
    after = b"\r\n--x--\r\n"
    length = f"Content-Length: {len(before) + len(content) + len(after)}\r\n"
    headers = f"Content-Type: multipart/form-data; boundary=x\r\n{length}"
    return "POST", "/files/", headers, [before, *pieces, after]


def check_refusal(answer: Answer, status: int, code: str) -> None:
    """Hold an error answer against the contract."""
    assert (answer.status, answer.problem["type"]) == (status, f"/problems/{code}"), answer
    assert ("retry-after" in answer.headers) == (status == 503), answer


async def until(condition: Callable[[], Awaitable[Any]], what: str, *, seconds: float = 10) -> None:
    """Wait until `condition` holds; fail, naming `what` was waited for, after the deadline."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.02)


async def find_leftovers(place: Place, caller: Caller) -> list[str]:
    """What lies in folder and catalogue beyond the acknowledged files, or is held open."""
    living = set(caller.ledger.living)
    rows = set(await place.column("SELECT id FROM file WHERE state = 'ready'"))
    blobs = set(place.names("blobs"))
    found = [f"stage {name}" for name in place.names("staging")]
    found += [f"row {key}" for key in rows ^ living]
    found += [f"blob {key}" for key in blobs ^ living]

    async def nothing_is_held() -> bool:
        held = descriptors_of(caller.service.process.pid)
        return not [name for name in held if name.startswith(f"{place.folder}/")]

    await until(nothing_is_held, "every file below the store is closed")
    return found


@asynccontextmanager
async def calling(place: Place, *flags: str) -> AsyncIterator[Caller]:
    """A caller of a service that runs as long as the block."""
    async with place.serving(*flags) as service:
        yield Caller(service, Ledger())


async def check_settled(place: Place, caller: Caller) -> None:
    """Everything acknowledged holds, and nothing else is left: neither file, stage nor note."""
    notes = await place.column("SELECT id FROM removal")
    if (notes or place.names("staging")) and not IS_THOROUGH:
        # The service itself does it every half minute.
        done = await asyncio.to_thread(place.run, "gc")
        assert done.returncode == 0, done.stdout + done.stderr
    await wait_until_settled(place)
    assert await find_violations(caller.service.url, caller.ledger) == []
    assert await find_leftovers(place, caller) == []
    if IS_THOROUGH:
        assert await audit(place) == []
