"""Raw HTTP over a socket: what no well-behaved client would send."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast


class Listener(Protocol):
    """Whatever listens at an address."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int | None: ...


@dataclass(frozen=True)
class Answer:
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem details, with what every one of them must have checked."""
        assert self.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        assert {"type", "title", "detail"} <= set(problem)
        assert problem["request_id"] == self.headers["x-request-id"]
        return problem


class Wire:
    """One connection to the server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, listener: Listener) -> "Wire":
        return cls(*await asyncio.open_connection(listener.host, listener.port))

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and stay to read."""
        self.writer.write_eof()

    def pause(self) -> None:
        """Stop reading, also from the kernel."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.ReadTransport:
        return cast("asyncio.ReadTransport", self.writer.transport)

    async def receive(self, *, is_head: bool = False) -> Answer:
        """Read one final answer, without a body to a HEAD; interim ones are passed over."""
        status = 100
        while status < 200:
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
            first, *lines = head.decode().split("\r\n")[:-2]
            status = int(first.split(" ")[1])
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        has_body = not is_head and status not in {204, 304}
        length = int(headers.get("content-length", 0)) if has_body else 0
        return Answer(status, headers, await asyncio.wait_for(self.reader.readexactly(length), 10))

    async def is_closed(self) -> bool:
        """Whether the server closes the connection, and says nothing more before."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 10) == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()
