"""Structured logs: the code uses stdlib logging; aiologger writes one JSON object a line.

aiologger's own stream handlers lose lines at shutdown, block on a slow pipe and break on a file.
So only its handler contract, record and JSON formatter are used, and a thread of ours writes.
"""

import json
import logging
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aiologger.formatters.json import ExtendedJsonFormatter
from aiologger.handlers.base import Handler
from aiologger.levels import LogLevel
from aiologger.records import ExtendedLogRecord

MOST_BYTES = 64 * 1024 * 1024  # of lines that wait for a slow reader
LINES_AT_ONCE = 512
FLUSH_SECONDS = 5

# Lines of so long are written at once: to wake a thread for each costs more than the line.
GATHER_SECONDS = 0.01

_encode = json.JSONEncoder(default=str).encode

_LEAST = len(vars(logging.makeLogRecord({})))
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FdHandler(Handler):  # type: ignore[misc]  # aiologger has no types
    """Writes lines to a descriptor from a thread: never blocks the loop, drops beyond a bound.

    The descriptor is a duplicate, left blocking; `dropped` counts lines, `broken` says why
    writing ended.
    """

    initialized = True

    def __init__(self, fd: int) -> None:
        super().__init__(LogLevel.DEBUG)
        self.formatter = ExtendedJsonFormatter(
            exclude_fields=["line_number", "function", "file_path", "level", "logged_at"]
        )
        self.dropped = 0
        self.broken: OSError | None = None
        self._fd = os.dup(fd)
        self._lines: deque[bytes] = deque()
        # Bytes, each counted by one thread alone.
        self._put = self._taken = 0
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._write_lines, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def _waiting(self) -> int:
        return self._put - self._taken

    async def emit(self, record: ExtendedLogRecord) -> None:
        """Queue what aiologger itself has to say."""
        self.write(self.formatter.format(record))

    def write(self, line: str) -> None:
        """Queue one line, in the order of calls."""
        if self.broken is not None or self._waiting >= MOST_BYTES:
            self.dropped += 1
            return
        text = f"{line}\n".encode()
        self._put += len(text)
        self._lines.append(text)
        if not self._wake.is_set():
            self._wake.set()

    def finish(self) -> None:
        """Write what is queued and end the thread; a reader that does not read is not awaited."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(FLUSH_SECONDS)
        if not self._thread.is_alive():
            os.close(self._fd)

    async def close(self) -> None:
        """Keep aiologger's contract."""
        self.finish()

    def _write_lines(self) -> None:
        while True:
            self._wake.wait()
            if not self._is_closing:
                time.sleep(GATHER_SECONDS)
            self._wake.clear()
            is_last = self._is_closing
            while self._lines:
                count = min(len(self._lines), LINES_AT_ONCE)
                text = b"".join(self._lines.popleft() for _ in range(count))
                self._write(text)
                self._taken += len(text)
            if is_last:
                return

    def _write(self, text: bytes) -> None:
        rest = memoryview(text)
        try:
            while rest and self.broken is None:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # somebody else made the pipe non-blocking
                    select.select([], [self._fd], [], 1)
        except OSError as error:  # the reader is gone or the disk is full: the service goes on
            self.broken = error


class Bridge(logging.Handler):
    """Hands every stdlib record to a writer of lines.

    Past aiologger's record and formatter: those take three times as long as the rest of it.
    """

    def __init__(self, writer: FdHandler) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record` as one JSON object; a record that cannot be written is dropped."""
        try:
            self._writer.write(_encode(_to_fields(record)))
        except Exception:  # noqa: BLE001  # a log line must not break what it tells about
            self.handleError(record)


@lru_cache(maxsize=1)
def _format_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def _format_time(timestamp: float) -> str:
    second = int(timestamp)
    return f"{_format_second(second)}.{int((timestamp - second) * 1000):03d}+00:00"


def _to_fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": _format_time(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "pid": record.process,
        "message": record.getMessage(),
    }
    told = vars(record)
    if len(told) > _LEAST:
        fields |= {name: value for name, value in told.items() if name not in _STANDARD}
    if record.exc_info and record.exc_info[0] is not None:
        fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    return fields


@contextmanager
def structured_logs(level: str, fd: int = 1) -> Iterator[None]:
    """Send all logging of this process to `fd` as JSON lines, until the block ends."""
    writer = FdHandler(fd)
    bridge = Bridge(writer)
    root = logging.getLogger()
    kept_level, kept_handlers = root.level, root.handlers[:]
    root.handlers[:] = [bridge]
    root.setLevel(level.upper())
    _quieten(level)
    try:
        with _unasked():
            yield
    finally:
        root.handlers[:] = kept_handlers
        root.setLevel(kept_level)
        writer.finish()


@contextmanager
def _unasked() -> Iterator[None]:
    """Have logging not find out what no line tells: a third of what a line costs."""
    names = ("_srcfile", "logThreads", "logMultiprocessing", "logAsyncioTasks")
    kept = {name: getattr(logging, name) for name in names if hasattr(logging, name)}
    for name in kept:
        setattr(logging, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(logging, name, value)


def _quieten(level: str) -> None:
    # Alembic tells each start that it looked at the schema; asyncio which selector it took.
    if level != "debug":
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("asyncio").setLevel(logging.WARNING)
