"""Database: bounded calls, and trouble told in our words; what every query goes through."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from file_service.catalogue.engine import EMBEDDED_RESERVE, Commit, Engine, Work
from file_service.errors import CatalogueUnavailable, NoRoom
from file_service.tasks import Together, TurnNotCome

Item = TypeVar("Item")
Result = TypeVar("Result")
Values = Mapping[str, Any]
Rows = Sequence[sa.Row[Any]]

# Whatever the database does or fails to do, no call takes longer.
LIMIT_SECONDS = 10.0
CHECK_SECONDS = 3.0

# How many wait for one answer, at most; and how long for those before them, whose answer takes
# milliseconds: else a database that hangs would be waited for twice.
MOST = 256
PATIENCE_SECONDS = 2.0

# An upload is let in on the strength of an answer not older than this.
FRESH_SECONDS = 1.0

_IS_READ_ONLY = sa.select(sa.func.current_setting("transaction_read_only"))
_PING = sa.select(sa.literal(1))


class Database:
    """What every statement goes through. Every method may raise CatalogueUnavailable.

    One that only writes may have written then: it is to be called again, which must be harmless.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # The dialect's own INSERT, which has ON CONFLICT.
        self.insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[
            engine.dialect
        ]
        self._answered_at = float("-inf")
        # Of hundreds of uploads that begin at once, one asks for all.
        self._checks: Together[None, None] = Together(self._check_once, most=MOST)

    async def admit(self) -> None:
        """Raise CatalogueUnavailable where an upload would find no database at its end."""
        if time.monotonic() - self._answered_at > FRESH_SECONDS:
            await self._checks.ask(None)

    async def _check_once(self, everybody: Sequence[None]) -> list[None]:
        await self.check()
        return [None for _ in everybody]

    async def check(self) -> None:
        """Raise CatalogueUnavailable or NoRoom unless the database can take a row now."""
        async with self._answering(CHECK_SECONDS):
            await self.engine.read(_check_writable)

    async def read(self, query: sa.Executable, values: Values | None = None) -> Rows:
        """Return all rows that one statement finds."""
        async with self._answering():
            return await self.engine.read(
                lambda connection: connection.execute(query, values).all()
            )

    async def change(self, statement: sa.Executable, values: Values | None = None) -> int:
        """Return how many rows one statement has changed."""
        return await self.write(lambda connection: connection.execute(statement, values).rowcount)

    async def write(self, work: Work[Result], commit: Commit | None = None) -> Result:
        """Run `work` in a transaction, which is then committed; `commit` tells how far it came."""
        async with self._answering():
            return await self.engine.write(work, commit)

    @asynccontextmanager
    async def _answering(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Bound the wait, tell trouble in our words, and note whether there was an answer."""
        try:
            async with _translated(), asyncio.timeout(seconds or LIMIT_SECONDS):
                yield
        except CatalogueUnavailable:
            self._answered_at = float("-inf")
            raise
        self._answered_at = time.monotonic()


class Shared(Generic[Item, Result]):
    """Asks the database for at most `most` at once, in `turns` connections."""

    def __init__(
        self,
        ask_all: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        turns: int,
        most: int = MOST,
    ) -> None:
        self._together = Together(ask_all, most=most, turns=turns, patience=PATIENCE_SECONDS)

    async def ask(self, item: Item) -> Result:
        """Return what the database says of `item`; CatalogueUnavailable, too, for a long queue."""
        try:
            return await self._together.ask(item)
        except TurnNotCome as error:
            raise CatalogueUnavailable("The catalogue is busy, or does not answer.") from error


def _check_writable(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(_PING)
        _check_room(Path(connection.engine.url.database or "."))
    elif connection.scalar(_IS_READ_ONLY) == "on":
        raise CatalogueUnavailable("The catalogue takes no writes: it is a standby.")


def _check_room(path: Path) -> None:
    found = os.statvfs(path.parent)
    if found.f_bavail * found.f_frsize < EMBEDDED_RESERVE:
        raise NoRoom("There is no room left where the catalogue is kept.")


# What a database that is away, restarting or slow raises. Connecting raises asyncpg's and the
# system's own errors; what follows arrives wrapped by SQLAlchemy.
_TROUBLE = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.InternalError,
    sa.exc.TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)

# Classes of SQLSTATE that are about our statement: its data, a constraint, its syntax or rights.
# Every other is about the database's condition, from a lost connection to a standby.
_OUR_FAULT = {"22", "23", "42"}


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (sa.exc.DBAPIError, *_TROUBLE) as error:
        if _is_full(error):
            raise NoRoom("There is no room left where the catalogue is kept.") from error
        if _is_trouble(error):
            # The driver's own words go to the log as the cause; they may name hosts and users.
            name = type(error).__name__
            raise CatalogueUnavailable(f"The catalogue did not answer ({name}).") from error
        raise


def _is_trouble(error: BaseException) -> bool:
    if isinstance(error, _TROUBLE) or getattr(error, "connection_invalidated", False):
        return True
    sqlstate = _get_sqlstate(error)
    return sqlstate != "" and sqlstate[:2] not in _OUR_FAULT


def _is_full(error: BaseException) -> bool:
    # SQLite's only word for it is a sentence; PostgreSQL's is a code, disk_full.
    cause = getattr(error, "orig", None)
    return "disk is full" in str(cause) or _get_sqlstate(error) == "53100"


def _get_sqlstate(error: BaseException) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""
