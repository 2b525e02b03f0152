"""Additions: the rows of files that are uploaded at the same time go in by one transaction."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from file_service.catalogue.database import Database
from file_service.catalogue.tables import file as table
from file_service.catalogue.tables import to_row
from file_service.errors import NoRoom, OutcomeUnknown
from file_service.models import File

MOST = 256  # uploads in one transaction

# Transactions at once: SQLite has one writer, and PostgreSQL others to serve.
SQLITE_TURNS, POSTGRESQL_TURNS = 1, 4


@dataclass(eq=False, slots=True)
class _Addition:
    """The files of one upload, and what has become of them."""

    files: Sequence[File]
    outcome: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def end(self, error: BaseException | None = None) -> None:
        """Tell whoever waits for it, unless nobody does any more."""
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(None)
        else:
            self.outcome.set_exception(error)


class Additions:
    """Adds files; those who come while a transaction is under way share the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        is_sqlite = database.engine.dialect.name == "sqlite"
        self._turns = SQLITE_TURNS if is_sqlite else POSTGRESQL_TURNS
        self._waiting: deque[_Addition] = deque()
        self._taken = 0  # turns
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, files: Sequence[File]) -> None:
        """Make `files` exist, all of them or none; OutcomeUnknown where COMMIT gave no answer."""
        addition = _Addition(files)
        self._waiting.append(addition)
        if self._taken < self._turns:
            self._taken += 1
            task = asyncio.create_task(self._add_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await addition.outcome

    async def _add_all(self) -> None:
        while self._waiting:
            count = min(MOST, len(self._waiting))
            await self._add_together([self._waiting.popleft() for _ in range(count)])
        # Here and not when the task is done: who comes between the two would wait for nobody.
        self._taken -= 1

    async def _add_together(self, additions: Sequence[_Addition]) -> None:
        try:
            await self._commit([file for each in additions for file in each.files])
        except OutcomeUnknown as error:
            for each in additions:
                ids = [file.id for file in each.files]
                each.end(OutcomeUnknown(ids, str(error)))
        except sa.exc.IntegrityError as error:
            await self._add_apart(additions, error)
        except BaseException as error:  # noqa: BLE001  # told to everybody who waits for it
            for each in additions:
                each.end(error)
        else:
            for each in additions:
                each.end()

    async def _add_apart(self, additions: Sequence[_Addition], error: Exception) -> None:
        """Add one upload after the other: what is wrong with one of them is not the others'."""
        if len(additions) == 1:
            additions[0].end(error)
            return
        for each in additions:
            await self._add_together([each])

    async def _commit(self, files: Sequence[File]) -> None:
        is_sent = is_done = False
        try:
            async with self._database.answering(), self._database.connecting() as connection:
                await connection.execute(sa.insert(table), [to_row(each) for each in files])
                is_sent = True
                await connection.commit()
                is_done = True
        except (Exception, asyncio.CancelledError) as error:
            if is_done:
                return  # the connection could not be given back in time, that is all
            if is_sent and not isinstance(error, NoRoom):
                ids = [each.id for each in files]
                raise OutcomeUnknown(ids, "The catalogue did not confirm.") from error
            raise  # NoRoom: a database that finds no room rolls back, and says so
