"""Additions: rows of files that are uploaded at the same time, on SQLite by one transaction."""

import asyncio
from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa

from file_service.catalogue.database import Database, Shared
from file_service.catalogue.engine import Commit
from file_service.catalogue.tables import file as table
from file_service.catalogue.tables import to_row
from file_service.errors import NoRoom, OutcomeUnknown
from file_service.models import File

# PostgreSQL commits for many sessions at once by itself; a shared COMMIT whose answer is lost would
# leave more than one upload in doubt. SQLite has one writer, and nothing between it and the file.
POSTGRESQL_TURNS = 16


class Additions:
    """Adds files; on SQLite those who come during a transaction share the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        is_sqlite = database.engine.dialect == "sqlite"
        if is_sqlite:
            self._shared = Shared(self._add_all, turns=1)
        else:
            self._shared = Shared(self._add_all, turns=POSTGRESQL_TURNS, most=1)

    async def add(self, files: Sequence[File]) -> None:
        """Make `files` exist, all of them or none; OutcomeUnknown where COMMIT gave no answer."""
        await self._shared.ask(files)

    async def _add_all(self, uploads: Sequence[Sequence[File]]) -> Sequence[BaseException | None]:
        try:
            await self._commit([file for files in uploads for file in files])
        except OutcomeUnknown as error:
            told = str(error)
            return [OutcomeUnknown([file.id for file in files], told) for files in uploads]
        except sa.exc.IntegrityError as error:
            return [error] if len(uploads) == 1 else await self._add_apart(uploads)
        return [None] * len(uploads)

    async def _add_apart(self, uploads: Sequence[Sequence[File]]) -> list[BaseException | None]:
        """Add one upload after the other: what is wrong with one of them is not the others'."""
        outcomes: list[BaseException | None] = []
        for files in uploads:
            try:
                await self._commit(files)
            except Exception as error:  # noqa: BLE001  # told to whose it is, and to nobody else
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    async def _commit(self, files: Sequence[File]) -> None:
        commit = Commit()
        try:
            await self._database.write(partial(insert_files, files=files), commit)
        except (Exception, asyncio.CancelledError) as error:
            if commit.is_done:
                return  # the connection could not be given back in time, that is all
            if commit.give_up() or isinstance(error, NoRoom):
                raise  # NoRoom: a database that finds no room rolls back, and says so
            ids = [each.id for each in files]
            raise OutcomeUnknown(ids, "The catalogue did not confirm.") from error


def insert_files(connection: sa.Connection, files: Sequence[File]) -> None:
    """Insert the rows of `files` by the transaction of `connection`."""
    connection.execute(sa.insert(table), [to_row(each) for each in files])
