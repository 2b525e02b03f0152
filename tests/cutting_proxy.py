"""A wire between a client and the service that counts what is sent, and can be cut or stopped."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

SECONDS = 30
PIECE = 65_536


class CuttingProxy:
    """Forwards connections from a port of its own to the service at `url`, in a thread of its own.

    The first connections are cut by RST after so many bytes of their clients as `cuts` says, one
    number for each. Of each connection no more than `stop_at` bytes are read until `go_on`.
    """

    def __init__(self, url: str, *, cuts: Sequence[int] = (), stop_at: int | None = None) -> None:
        self.redirect(url)
        self.port = 0
        self.sent = 0
        self.connections = 0
        self.cut_connections = 0
        self._cuts = list(cuts)
        self._stop_at = stop_at
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._going = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run()])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, count: int) -> None:
        """Wait until clients have sent so many bytes."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.sent >= count, SECONDS), self.sent

    def go_on(self) -> None:
        """Forward whatever comes from now on."""
        self._loop.call_soon_threadsafe(self._going.set)

    def redirect(self, url: str) -> None:
        """Forward new connections to the service at this address."""
        address = urlsplit(url)
        self._upstream = (address.hostname, address.port)

    def start(self) -> None:
        """Listen; return once the port is known."""
        self._thread.start()
        with self._changed:
            assert self._changed.wait_for(lambda: self.port, SECONDS)

    def close(self) -> None:
        """Cut what is left, and end."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self._loop.close()

    async def _run(self) -> None:
        if self._stop_at is None:
            self._going.set()
        listener = socket.create_server(("127.0.0.1", 0))
        # What lies in the kernel is on its way, whoever ends: the less of it, the clearer.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        server = await asyncio.start_server(self._accept, sock=listener)
        with self._changed:
            self.port = listener.getsockname()[1]
            self._changed.notify_all()
        await self._end.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: that of the server would log the errors that are our purpose.
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        cut_after = self._cuts.pop(0) if self._cuts else None
        try:
            server, to_server = await asyncio.open_connection(*self._upstream)
        except OSError:
            _cut(to_client)
            return
        _hold_little(to_server)
        ways = {
            asyncio.create_task(self._send(client, to_server, cut_after)),
            asyncio.create_task(_answer(server, to_client)),
        }
        try:
            # Whoever ends the connection ends it for the other one, too.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            _cut(to_server)
            if cut_after is None:
                to_client.close()
            else:
                _cut(to_client)
            await asyncio.gather(*ways, return_exceptions=True)  # last: it can be cancelled

    async def _send(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, cut_after: int | None
    ) -> None:
        left = cut_after
        passed = 0
        while left != 0 and (piece := await client.read(await self._allow(passed, left))):
            passed += len(piece)
            left = None if left is None else left - len(piece)
            with self._changed:
                self.sent += len(piece)
                self._changed.notify_all()
            to_server.write(piece)
            await to_server.drain()
        self.cut_connections += left == 0

    async def _allow(self, passed: int, left: int | None) -> int:
        """Return how much may be read of a connection now, once anything may be."""
        size = PIECE if left is None else min(PIECE, left)
        if self._going.is_set() or self._stop_at is None:
            return size
        if passed >= self._stop_at:
            await self._going.wait()
            return size
        return min(size, self._stop_at - passed)


async def _answer(server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    while piece := await server.read(PIECE):
        to_client.write(piece)
        await to_client.drain()


def _hold_little(writer: asyncio.StreamWriter) -> None:
    """Keep what is on the way small: it is lost with a cut.

    Less room than a segment of the loopback has each of them wait for a delayed acknowledgement.
    """
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    writer.transport.set_write_buffer_limits(high=0)


def _cut(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, as a machine that went away and came back does."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def cutting(
    url: str, *, cuts: Sequence[int] = (), stop_at: int | None = None
) -> Iterator[CuttingProxy]:
    """A proxy before the service for the length of the block."""
    proxy = CuttingProxy(url, cuts=cuts, stop_at=stop_at)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
