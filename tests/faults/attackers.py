"""Slow clients by the hundred, in a process of their own: their work is not the test's.

`python attackers.py HOST PORT PATH HOLD REPEAT KIND=COUNT...` says `ready` once all are at it, and
what became of them when its standard input ends. With REPEAT 1 who is thrown out comes back.
"""

import asyncio
import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

DRIP_SECONDS = 0.3

Begun = Callable[[], None]


class Crowd:
    """Attackers of one address; `path` is a file larger than any socket buffer."""

    def __init__(self, address: tuple[str, int], path: str, hold: float) -> None:
        self._address = address
        self._path = path.encode()
        self._hold = hold
        self._loop = asyncio.get_running_loop()
        self.outcomes: Counter[str] = Counter()

    async def drip_headers(self, sock: socket.socket, begun: Begun) -> str:
        """Send the head of a request that never ends, a byte at a time."""
        await self._loop.sock_sendall(sock, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        begun()
        while True:
            await asyncio.sleep(DRIP_SECONDS)
            await self._loop.sock_sendall(sock, b"a")

    async def stall_body(self, sock: socket.socket, begun: Begun) -> str:
        """Send the beginning of a body, and wait."""
        head = b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        await self._loop.sock_sendall(sock, head + bytes(1000))
        begun()
        answer = await self._loop.sock_recv(sock, 65536)
        while await self._loop.sock_recv(sock, 65536):
            pass
        return answer[9:12].decode()

    async def stop_reading(self, sock: socket.socket, begun: Begun) -> str:
        """Ask for a large file and take none of it; the kernel at the other end tells nobody."""
        await self._loop.sock_sendall(sock, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % self._path)
        begun()
        await asyncio.sleep(self._hold)
        return "held"

    async def attack(self, kind: str, begun: Begun, *, repeat: bool) -> None:
        """Attack once, or again and again."""
        act: Callable[[socket.socket, Begun], Awaitable[str]] = getattr(self, kind)
        while True:
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                # What was not read must not be waited for when it ends.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                try:
                    await self._loop.sock_connect(sock, self._address)
                    outcome = await act(sock, begun)
                except ConnectionError:
                    outcome = "closed"
            self.outcomes[f"{kind} {outcome}"] += 1
            if not repeat:
                return


async def main(host: str, port: str, path: str, hold: str, repeat: str, *kinds: str) -> None:
    """Attack until standard input ends."""
    crowd = Crowd((host, int(port)), path, float(hold))
    counts = {kind: int(count) for kind, count in (each.split("=") for each in kinds)}
    ready, waited_for = asyncio.Event(), sum(counts.values())

    def begun() -> None:
        nonlocal waited_for
        waited_for -= 1
        if waited_for == 0:
            ready.set()

    attacks = [
        asyncio.create_task(crowd.attack(kind, begun, repeat=repeat == "1"), name=kind)
        for kind, count in counts.items()
        for _ in range(count)
    ]
    await ready.wait()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    listening = [attack for attack in attacks if attack.get_name() != "stop_reading"]
    if listening and repeat == "0":
        # Who drips sees only at the next drop that he was thrown out.
        await asyncio.wait(listening, timeout=10 * DRIP_SECONDS)
    for attack in attacks:
        attack.cancel()
    await asyncio.gather(*attacks, return_exceptions=True)
    sys.stdout.write(json.dumps(crowd.outcomes))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
