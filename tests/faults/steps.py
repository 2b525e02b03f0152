"""Kill a service at a step of one's choosing: before the N-th call that changes or tells anything.

strace can inject a SIGKILL, too, but it counts each thread by itself, and a request
crosses several threads; this counts all of them together. The tracer is a process of its own.
"""

import asyncio
import ctypes
import os
import platform
import re
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

IS_SUPPORTED = platform.machine() == "x86_64"  # the numbers below are this machine's

# What changes something outside of the process: by number, its name and where its path is.
_BY_PATH = {
    82: ("rename", 1), 83: ("mkdir", 0), 86: ("link", 1), 87: ("unlink", 0), 257: ("openat", 1),
    258: ("mkdirat", 1), 263: ("unlinkat", 1), 264: ("renameat", 3), 265: ("linkat", 3),
    316: ("renameat2", 3),
}  # fmt: skip
_BY_DESCRIPTOR = {
    1: "write", 18: "pwrite64", 20: "writev", 73: "flock", 74: "fsync", 75: "fdatasync",
    77: "ftruncate", 285: "fallocate", 296: "pwritev",
}  # fmt: skip
_BY_SOCKET = {44: "sendto", 46: "sendmsg"}

_SYSCALL, _SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 24, 0x4206, 0x4207, 0x420E
_SYSGOOD, _TRACECLONE = 1, 8
_WALL = 0x40000000
_ENTRY = 1

Call = tuple[int, tuple[int, ...]]


# ── the test's side ──


@dataclass
class Steps:
    """What a process did while it was watched, and whether that was its end."""

    taken: list[str] = field(default_factory=list)
    has_killed: bool = False

    @property
    def last(self) -> str:
        return self.taken[-1] if self.taken else "nothing"


@asynccontextmanager
async def killing(pid: int, *, at: int, match: str = "") -> AsyncIterator[Steps]:
    """Within the block, kill the process before its step number `at` of those that match.

    Steps read like `fsync /path`; after the block they are all known, the last one not done.
    """
    tracer = await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(pid), str(at), match, stdout=subprocess.PIPE
    )
    assert tracer.stdout is not None
    try:
        assert await tracer.stdout.readline() == b"attached\n"
        steps = Steps()
        yield steps
    finally:
        with suppress(ProcessLookupError):
            tracer.terminate()
        told = (await tracer.communicate())[0].decode().splitlines()
    steps.has_killed = "killed" in told
    steps.taken = [line for line in told if line != "killed"]


# ── the tracer's side: nothing but the standard library ──

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class Tracer:
    """Follows every thread of a process, and kills it at its step."""

    def __init__(self, pid: int, at: int, match: str) -> None:
        self._pid = pid
        self._left = at
        self._match = re.compile(match)
        self._threads: set[int] = set()

    def attach(self) -> None:
        """Stop every thread once, so that its next call is seen."""
        while new := {int(entry.name) for entry in self._tasks()} - self._threads:
            for thread in new:
                if self._seize(thread):
                    self._threads.add(thread)
        waiting = set(self._threads)
        while waiting:
            waiting.discard(self._follow())

    def _seize(self, thread: int) -> bool:
        """Have a thread stop; False for one that has ended meanwhile."""
        try:
            # One that was begun by one of ours is ours from its first moment, and stops by itself.
            with suppress(PermissionError):
                self._ptrace(_SEIZE, thread, _SYSGOOD | _TRACECLONE)
                self._ptrace(_INTERRUPT, thread)
        except ProcessLookupError:
            return False
        return True

    def run(self) -> None:
        """Follow the process to its end."""
        while self._threads:
            self._follow()

    def _follow(self) -> int:
        """Let one stopped thread go on; return which."""
        thread, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            self._threads.discard(thread)
            return thread
        self._threads.add(thread)
        number, delivered = os.WSTOPSIG(status), 0
        if number == signal.SIGTRAP | 0x80:
            self._look(thread)
        elif status >> 16 == 0:
            delivered = number
        with suppress(ProcessLookupError):
            self._ptrace(_SYSCALL, thread, delivered)
        return thread

    def _look(self, thread: int) -> None:
        call = self._read_call(thread)
        step = None if call is None else self._name(*call)
        if step is None or not self._left:
            return
        tell(step)
        if self._match.search(step):
            self._left -= 1
            if not self._left:
                os.kill(self._pid, signal.SIGKILL)  # the thread stands before its call
                tell("killed")

    def _name(self, number: int, arguments: tuple[int, ...]) -> str | None:
        if number in _BY_PATH:
            name, place = _BY_PATH[number]
            if name == "openat" and not arguments[2] & os.O_CREAT:
                return None
            return f"{name} {self._read_text(arguments[place])}"
        if number in _BY_SOCKET:
            # One byte alone wakes the event loop.
            is_wake_up = number == 44 and arguments[2] == 1
            return None if is_wake_up else _BY_SOCKET[number]
        if number in _BY_DESCRIPTOR:
            target = self._readlink(arguments[0])
            return f"{_BY_DESCRIPTOR[number]} {target}" if target.startswith("/") else None
        return None

    def _read_call(self, thread: int) -> Call | None:
        info = ctypes.create_string_buffer(88)
        try:
            self._ptrace(_GET_SYSCALL_INFO, thread, len(info), info)
        except ProcessLookupError:
            return None
        if info.raw[0] != _ENTRY:
            return None
        number, *arguments = struct.unpack_from("7Q", info.raw, 24)
        return number, tuple(arguments)

    def _read_text(self, address: int) -> str:
        with Path(f"/proc/{self._pid}/mem").open("rb", buffering=0) as memory:
            return os.pread(memory.fileno(), 4096, address).split(b"\0")[0].decode()

    def _readlink(self, descriptor: int) -> str:
        with suppress(OSError):
            return str(Path(f"/proc/{self._pid}/fd/{descriptor}").readlink())
        return ""

    def _tasks(self) -> list[Path]:
        return list(Path(f"/proc/{self._pid}/task").iterdir())

    def _ptrace(self, request: int, thread: int, third: int = 0, data: object = None) -> None:
        # SEIZE and SYSCALL take their one value last, GET_SYSCALL_INFO a size and a buffer.
        address, value = (third, data) if data is not None else (0, third)
        if _libc.ptrace(request, thread, address, value) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    tracer = Tracer(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    tracer.attach()
    tell("attached")
    tracer.run()


if __name__ == "__main__":
    main()
