"""Worker processes: bind, fork, replace the dead, stop them all gracefully."""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from aiohttp import web

from file_service import metrics
from file_service.app import build_app
from file_service.config import Settings
from file_service.errors import StartupError
from file_service.logs import structured_logs
from file_service.web.connection import ConnectionLimits, Runner
from file_service.web.keys import HEALTH

logger = logging.getLogger(__name__)

BACKLOG = 1024
# asyncio accepts up to this many in a row, also when there are no descriptors for them left.
ACCEPTED_AT_ONCE = 16
LINGERING_SECONDS = 5
# aiohttp holds up to twice this much of a body, and one receive more, for each upload.
READ_BUFFER = 64 * 1024
# A worker that dies at once, again and again, must not eat the machine.
RESTART_SECONDS = 1.0
DISK_THREADS = 32
MOST_DESCRIPTORS = 65_536
LARGEST_HEAD = 64 * 1024

# What a worker gets on top of the grace time before it is killed.
KILL_SECONDS = 10.0

_STOP = (signal.SIGTERM, signal.SIGINT)


def serve(settings: Settings, identity: str) -> None:
    """Serve the store of this `identity` until SIGTERM or SIGINT.

    StartupError where the address cannot be had.
    """
    raise_descriptor_limit()
    sockets = bind(settings.host, settings.port, settings.workers)
    for sock in sockets:
        limit_stalled_readers(sock, settings.idle_seconds)
    host, port = sockets[0].getsockname()[:2]
    with structured_logs(settings.log_level):
        address = f"[{host}]" if ":" in host else host
        logger.info("listening on http://%s:%s", address, port, extra={"workers": settings.workers})
        if settings.workers == 1:
            asyncio.run(run_worker(settings, identity, sockets[0]))
            return
    metrics.share(settings.workers)
    # The parent has no thread when it forks, so it logs only before and after.
    Supervisor(
        sockets, lambda sock, parent: _work(settings, identity, sock, parent), settings
    ).run()


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Return `count` listening sockets on one address, among which the kernel spreads connections.

    They stay open in the parent: what waits in the queue of a worker that died is taken up by its
    successor, not refused.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # The first bind without SO_REUSEPORT: it fails where anybody else listens already.
        first = _listen(family, address, reuse_port=False)
        if count == 1:
            return [first]
        address = first.getsockname()
        first.close()
        return [_listen(family, address, reuse_port=True) for _ in range(count)]
    except OSError as error:
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def limit_stalled_readers(sock: socket.socket, seconds: float) -> None:
    """Have the kernel drop connections of `sock` whose client takes nothing for so long."""
    if sys.platform == "linux":  # accepted connections inherit it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def _listen(family: int, address: tuple[object, ...], *, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


async def run_worker(
    settings: Settings, identity: str, sock: socket.socket, parent: int | None = None
) -> None:
    """Serve on `sock` until told to stop: by a signal, or by the end of the `parent` pipe."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Syncs wait for the disk, and must not keep downloads from opening their files.
    loop.set_default_executor(ThreadPoolExecutor(DISK_THREADS, "disk"))

    def stop_soon(_number: int, _frame: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: we have stopped
            loop.call_soon_threadsafe(stop.set)

    # Not the loop's own handlers: it takes them away at its end, and a late signal would kill us.
    for number in _STOP:
        signal.signal(number, stop_soon)
    if parent is not None:
        loop.add_reader(parent, stop.set)
    loop.set_exception_handler(_LogSeldom())
    runner = make_runner(build_app(settings, identity), settings)
    await runner.setup()
    # What was made until now stays, and requests make few cycles: looked for as often as by
    # default, they cost more than they would take.
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    try:
        await web.SockSite(runner, sock, backlog=ACCEPTED_AT_ONCE).start()
        sock.listen(BACKLOG)  # which the site has set to the former
        logger.info("worker started", extra={"pid": os.getpid()})
        await stop.wait()
        runner.app[HEALTH].is_draining = True
        logger.info("worker stopping", extra={"pid": os.getpid()})
    finally:
        if parent is not None:
            loop.remove_reader(parent)
        await runner.cleanup()


class _LogSeldom:
    """Handles what asyncio complains of: of running out of descriptors, once a second."""

    def __init__(self) -> None:
        self._told_at = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "out of system resource" in context["message"]:
            if time.monotonic() - self._told_at < 1:
                return
            self._told_at = time.monotonic()
        loop.default_exception_handler(context)


def make_runner(app: web.Application, settings: Settings) -> Runner:
    """Return the runner of `app` with the limits and times of the service."""
    return Runner(
        app,
        limits=ConnectionLimits(
            most=settings.max_connections or choose_max_connections(),
            head_seconds=settings.head_seconds,
            head_size=max(LARGEST_HEAD, 2 * settings.max_header),
        ),
        access_log=None,
        # Stored bytes are the bytes sent: a Content-Encoding is refused, never undone.
        auto_decompress=False,
        keepalive_timeout=settings.keepalive_seconds,
        max_line_size=settings.max_header,
        max_field_size=settings.max_header,
        lingering_time=LINGERING_SECONDS,
        read_bufsize=READ_BUFFER,
        shutdown_timeout=settings.grace_seconds,
    )


def raise_descriptor_limit() -> None:
    """Take all the file descriptors that we may have; the usual soft limit is for select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def choose_max_connections() -> int:
    """Return how many connections leave each of them a stage or a blob, and some for the rest."""
    return max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64) // 3)


def _work(settings: Settings, identity: str, sock: socket.socket, parent: int) -> None:
    with structured_logs(settings.log_level):
        try:
            asyncio.run(run_worker(settings, identity, sock, parent))
        except Exception:
            logger.exception("worker failed")
            raise


class Supervisor:
    """Keeps one worker process on each socket, until SIGTERM or SIGINT."""

    def __init__(
        self,
        sockets: list[socket.socket],
        work: Callable[[socket.socket, int], None],
        settings: Settings,
    ) -> None:
        self._sockets = sockets
        self._work = work
        self._log_level = settings.log_level
        self._patience = settings.grace_seconds + KILL_SECONDS
        self._workers: dict[int, socket.socket] = {}
        # Nobody ever writes: the workers see its end when this process is gone, however it went.
        self._alive, self._kept = os.pipe()

    def run(self) -> None:
        """Start the workers, replace those that die, and stop them all when told to."""
        signals = {*_STOP, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        for sock in self._sockets:
            self._start(sock)
        while signal.sigwait(signals) == signal.SIGCHLD:
            for pid, status in self._reap():
                self._replace(pid, status)
        self._stop()

    def _start(self, sock: socket.socket) -> None:
        while True:
            try:
                pid = os.fork()
                break
            except OSError:  # too many processes: the other workers go on meanwhile
                time.sleep(RESTART_SECONDS)
        if pid == 0:
            self._become_worker(sock)
        self._workers[pid] = sock

    def _become_worker(self, sock: socket.socket) -> None:
        status = 1
        try:
            os.close(self._kept)
            for other in self._sockets:
                if other is not sock:
                    other.close()
            metrics.join(self._sockets.index(sock))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOP, signal.SIGCHLD})
            self._work(sock, self._alive)
            status = 0
        finally:
            os._exit(status)  # not through the parent's own way out

    def _replace(self, pid: int, status: int) -> None:
        sock = self._workers.pop(pid, None)
        if sock is None:
            return  # no child of ours: process 1 of a container inherits them
        # Its thread is gone before the fork: a copy of a process with threads is not safe.
        with structured_logs(self._log_level):
            code = os.waitstatus_to_exitcode(status)
            logger.error("worker ended", extra={"worker": pid, "exit_status": code})
        time.sleep(RESTART_SECONDS)
        self._start(sock)

    def _reap(self) -> list[tuple[int, int]]:
        """Return pid and wait status of the workers that have ended."""
        ended = []
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended.append(found)
        return ended

    def _stop(self) -> None:
        for sock in self._sockets:  # what comes now is refused, not left to wait
            sock.close()
        for pid in self._workers:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._patience
        while self._workers and time.monotonic() < deadline:
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
            for pid, _ in self._reap():
                self._workers.pop(pid, None)
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
