"""A wire between the service and PostgreSQL that can be cut, silenced, and knows a COMMIT."""

import asyncio
from typing import Literal, Self

# How the COMMIT of a doomed transaction fares: it is lost, its answer is lost, or it is held back
# until `release` lets it go, or `drop` loses it, however long the service has been gone by then.
Doom = Literal["lose_commit", "lose_reply", "delay"]
Mode = Literal["forward", "refuse", "blackhole"]


class WireProxy:
    """Forwards bytes from a port of its own to the database, unless told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.losses = 0
        self._upstream = (host, port)
        self._server: asyncio.Server | None = None
        self._mode: Mode = "forward"
        self._dooms: dict[bytes, Doom] = {}
        self._held: dict[bytes, asyncio.Future[bool]] = {}
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, database: str) -> str:
        """What a service calls the database behind this wire."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{database}"

    def doom(self, marker: str, how: Doom) -> None:
        """Have that happen to the transaction that mentions `marker`, when it commits."""
        self._dooms[marker.encode()] = how
        if how == "delay":
            self._held[marker.encode()] = asyncio.get_running_loop().create_future()

    def release(self, marker: str, *, is_lost: bool) -> None:
        """Let a COMMIT that is held back go on, or lose it for good."""
        self._held.pop(marker.encode()).set_result(is_lost)

    async def refuse(self) -> None:
        """Cut every connection and refuse new ones, as where no database runs."""
        assert self._server is not None
        self._mode = "refuse"
        self._server.close()
        for link in list(self._links):
            link.cut()
        await self._server.wait_closed()

    def blackhole(self) -> None:
        """Swallow what comes and accept whoever comes, and never answer."""
        self._mode = "blackhole"

    async def forward(self) -> None:
        """Work again; what was swallowed stays lost, with its connection."""
        if self._mode == "refuse":
            await self._listen()
        elif self._mode == "blackhole":
            for link in list(self._links):
                link.cut()
        self._mode = "forward"

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: that of the server would log the errors that are our purpose.
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(reader, writer, *upstream)
        self._links.add(link)
        try:
            await asyncio.gather(self._send(link), self._answer(link))
        except OSError:
            pass
        finally:
            self._links.discard(link)
            link.cut()

    async def _send(self, link: "_Link") -> None:
        """Take the service's bytes to the database."""
        seen = b""  # of the transaction: a marker may come in pieces
        while data := await link.client.read(65536):
            if self._mode == "blackhole":
                continue
            seen = (seen + data)[-1_000_000:]
            if b"COMMIT;" in data:
                marker = self._find_doomed(seen)
                if marker is not None and not await self._strike(link, marker):
                    return
                seen = b""
            link.to_server.write(data)
            await link.to_server.drain()
        link.to_server.write_eof()  # not cut: a COMMIT that came before still has its effect

    def _find_doomed(self, seen: bytes) -> bytes | None:
        return next((marker for marker in self._dooms if marker in seen), None)

    async def _strike(self, link: "_Link", marker: bytes) -> bool:
        """Do to this COMMIT what it is doomed to; return whether it reaches the database."""
        how = self._dooms.pop(marker)
        self.losses += 1
        link.is_mute = how == "lose_reply"
        is_lost = how == "lose_commit" or (how == "delay" and await self._held[marker])
        if is_lost:
            link.cut()
        return not is_lost

    async def _answer(self, link: "_Link") -> None:
        """Take the database's bytes to the service."""
        while data := await link.server.read(65536):
            if link.is_mute:
                break
            if self._mode != "blackhole":
                link.to_client.write(data)
                await link.to_client.drain()
        link.cut()


class _Link:
    """One connection of the service's, and ours to the database for it."""

    def __init__(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        self.client, self.to_client = client, to_client
        self.server, self.to_server = server, to_server
        self.is_mute = False

    def cut(self) -> None:
        """Break both halves at once."""
        self.to_client.transport.abort()
        self.to_server.transport.abort()
