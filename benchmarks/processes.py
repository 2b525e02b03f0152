"""A server under measurement: its processes, their time on the processors and their memory."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SAMPLE_SECONDS = 0.02
STOP_SECONDS = 60
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A running server, seen from outside; its figures are those of all its processes together."""

    name: str
    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    folder: Path

    def pids(self) -> list[int]:
        """Return the process and everything that it has started and that still runs."""
        found = [self.process.pid]
        for pid in found:  # which grows meanwhile
            found.extend(_children(pid))
        return found

    def resident(self, pids: Sequence[int] | None = None) -> int:
        """Return the bytes of memory that are resident now."""
        return sum(_resident(pid) for pid in pids or self.pids())

    def cpu_seconds(self) -> float:
        """Return the time on a processor until now, that of ended workers included."""
        return sum(_own_seconds(pid) + _ended_seconds(pid) for pid in self.pids())

    def stop(self) -> int:
        """End it gracefully; return the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()


def _children(pid: int) -> Iterator[int]:
    # Each thread has its own: a worker belongs to the one that forked it.
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, tasks.read_text().split())


def _resident(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


def _own_seconds(pid: int) -> float:
    # The clock of somebody else's process, as clock_getcpuclockid(3) numbers it: it counts
    # nanoseconds where /proc counts hundredths.
    return time.clock_gettime((~pid << 3) | 2)


def _ended_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


class Watch:
    """Takes a server's time and memory for the length of a block.

    Afterwards `seconds`, `cpu_seconds`, `peak` and `growth` are known; the latter two in bytes.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pids = server.pids()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.seconds = self.cpu_seconds = 0.0
        self.growth = 0
        self.peak = server.resident(self._pids)

    def __enter__(self) -> Self:
        self._resident = self.peak
        self._thread.start()
        self._cpu = self._server.cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_error: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = self._server.cpu_seconds() - self._cpu
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, self._server.resident(self._pids))
        self.growth = self.peak - self._resident

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._server.resident(self._pids))
