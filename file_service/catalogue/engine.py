"""How we connect: SQLite or PostgreSQL, each set so that COMMIT is durable."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

Result = TypeVar("Result")
Work = Callable[[sa.Connection], Result]

POOL_WAIT_SECONDS = 5
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10

# Threads, each with a connection, that read SQLite: one that hangs is not to hold up the others.
READERS = 8

# Bytes that SQLite must find to be able to commit anything at all.
EMBEDDED_RESERVE = 256 * 1024

_PRAGMAS = (
    "journal_mode=WAL",
    # The usual NORMAL loses acknowledged rows at a power cut.
    "synchronous=FULL",
    "busy_timeout=5000",
    "foreign_keys=ON",
)


class GivenUp(Exception):
    """A transaction was rolled back because nobody waits for it any more."""


class Commit:
    """How far the end of a transaction has come; until it begins it can be given up."""

    def __init__(self) -> None:
        self.is_done = False
        self._is_begun = False
        self._is_given_up = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Go past the point from where on only the database knows the outcome; or GivenUp."""
        with self._lock:
            if self._is_given_up:
                raise GivenUp
            self._is_begun = True

    def give_up(self) -> bool:
        """Return whether the transaction certainly comes to nothing."""
        with self._lock:
            self._is_given_up = True
            return not self._is_begun


class Engine(Protocol):
    """Runs what is to be done on a connection, without keeping the event loop waiting."""

    dialect: ClassVar[str]

    async def read(self, work: Work[Result]) -> Result:
        """Run `work` where each statement is a transaction by itself."""
        ...

    async def write(self, work: Work[Result], commit: Commit | None = None) -> Result:
        """Run `work` in a transaction, which is committed after it.

        Where it fails before its COMMIT begins, which `commit` tells, nothing has changed.
        """
        ...

    async def dispose(self) -> None:
        """Close what is open."""
        ...


def connect(url: str) -> Engine:
    """Return an engine for `url`; nothing is opened before its first use. Dispose of it."""
    return SQLite(url) if url.startswith("sqlite") else PostgreSQL(url)


class SQLite:
    """Each transaction is one call in a thread, from its BEGIN to its COMMIT."""

    dialect: ClassVar[str] = "sqlite"

    def __init__(self, url: str) -> None:
        self._reading = _make_sqlite(url, READERS, isolation_level="AUTOCOMMIT")
        self._writing = _make_sqlite(url, 1)
        event.listen(self._writing, "begin", _begin_immediate)
        self._readers = _Threads(READERS, "catalogue-read")
        # SQLite has one writer at a time and no queue: whoever asks at the right moment is it, and
        # another may ask in vain until it gives up. Those of this process queue here.
        self._writer = _Threads(1, "catalogue-write")

    async def read(self, work: Work[Result]) -> Result:
        """Run `work` where each statement is a transaction by itself."""
        return await self._readers.run(partial(self._read, work))

    def _read(self, work: Work[Result]) -> Result:
        with self._reading.connect() as connection:
            return work(connection)

    async def write(self, work: Work[Result], commit: Commit | None = None) -> Result:
        """Run `work` in a transaction, which is committed after it."""
        commit = commit or Commit()
        try:
            return await self._writer.run(partial(self._write, work, commit))
        except BaseException:
            commit.give_up()  # the thread may still be at it
            raise

    def _write(self, work: Work[Result], commit: Commit) -> Result:
        with self._writing.begin() as connection:
            result = work(connection)
            commit.begin()
        commit.is_done = True
        return result

    async def dispose(self) -> None:
        """Close what is open, and end the threads: a process with threads cannot fork."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for threads in (self._readers, self._writer):
            threads.end()
        for engine in (self._reading, self._writing):
            engine.dispose()


class _Threads:
    """Threads that take a call each; whoever gives up before its turn has come leaves nothing."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, name)
        self._turns = asyncio.Semaphore(count)

    async def run(self, call: Callable[[], Result]) -> Result:
        """Return what `call` returns; where nobody waits any more it goes on, and has its turn."""
        loop = asyncio.get_running_loop()
        await self._turns.acquire()
        try:
            running = self._executor.submit(call)
        except BaseException:
            self._turns.release()
            raise
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._turns.release))
        return await asyncio.wrap_future(running)

    def end(self) -> None:
        """Wait for the calls that are under way, and end the threads."""
        self._executor.shutdown()


class PostgreSQL:
    """Connections of asyncpg's."""

    dialect: ClassVar[str] = "postgresql"

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(
            url,
            pool_size=10,
            max_overflow=10,
            pool_timeout=POOL_WAIT_SECONDS,
            pool_pre_ping=True,
            hide_parameters=True,  # they hold file names and metadata, which no log is to have
            connect_args={"timeout": CONNECT_SECONDS, "command_timeout": STATEMENT_SECONDS},
        )
        # No BEGIN and ROLLBACK around a single statement.
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def read(self, work: Work[Result]) -> Result:
        """Run `work` where each statement is a transaction by itself."""
        async with self._autocommit.connect() as connection:
            return await connection.run_sync(work)

    async def write(self, work: Work[Result], commit: Commit | None = None) -> Result:
        """Run `work` in a transaction, which is committed after it."""
        commit = commit or Commit()
        async with self._engine.connect() as connection:
            result = await connection.run_sync(work)
            commit.begin()
            await connection.commit()
            commit.is_done = True
            return result

    async def dispose(self) -> None:
        """Close what is open."""
        await self._engine.dispose()


def _make_sqlite(url: str, connections: int, **options: Any) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        hide_parameters=True,
        # Whichever thread of ours borrows a connection uses it alone.
        connect_args={"check_same_thread": False},
        **options,
    )
    event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    [mode] = cursor.execute("PRAGMA journal_mode").fetchone()
    cursor.close()
    if mode != "wal":  # SQLite tells, and goes on without
        raise sqlite3.OperationalError(f"no write-ahead log where the catalogue is, but {mode!r}")


def _begin_immediate(connection: sa.Connection) -> None:
    # A transaction that takes the write lock only half-way fails where another holds it.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
