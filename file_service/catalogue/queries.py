"""Catalogue: every SQL statement of the service."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from file_service.catalogue.tables import file
from file_service.errors import CatalogueUnavailable, FileNotFound, OutcomeUnknown
from file_service.models import File

_COLUMNS = tuple(field.name for field in fields(File))
_GET_FILE = sa.select(*(file.c[name] for name in _COLUMNS)).where(file.c.id == sa.bindparam("id"))
_DELETE_FILE = sa.delete(file).where(file.c.id == sa.bindparam("id"))
_PING = sa.select(sa.literal(1))


class Catalogue:
    """The rows. Every method may raise CatalogueUnavailable, and then has changed nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # A read is one statement: no BEGIN and ROLLBACK around it, and on SQLite no write lock.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def add_files(self, files: Sequence[File]) -> None:
        """Make `files` exist, all of them or none; OutcomeUnknown where COMMIT gave no answer."""
        rows = [_to_row(each) for each in files]
        is_committing = False
        try:
            async with self._engine.connect() as connection:
                await connection.execute(sa.insert(file), rows)
                is_committing = True
                await connection.commit()
        except _TROUBLE as error:
            if is_committing:
                raise OutcomeUnknown(files[0].id, "The catalogue did not confirm.") from error
            raise _unavailable(error) from error

    async def get_file(self, file_id: str) -> File:
        """Return the file of this id; FileNotFound where there is none."""
        with _translated():
            async with self._reading.connect() as connection:
                row = (await connection.execute(_GET_FILE, {"id": file_id})).first()
        if row is None:
            raise FileNotFound(f"No file has the id {file_id}.")
        return File(**row._mapping)

    async def delete_file(self, file_id: str) -> None:
        """Make the file not exist; FileNotFound where it does not already."""
        with _translated():
            async with self._engine.begin() as connection:
                result = await connection.execute(_DELETE_FILE, {"id": file_id})
        if result.rowcount == 0:
            raise FileNotFound(f"No file has the id {file_id}.")

    async def check(self) -> None:
        """Raise CatalogueUnavailable unless the database answers now."""
        with _translated():
            async with self._reading.connect() as connection:
                await connection.execute(_PING)


def _to_row(value: File) -> dict[str, Any]:
    row = {name: getattr(value, name) for name in _COLUMNS}
    row["metadata"] = dict(value.metadata)
    return row


# What a database that is away, restarting, slow or full raises. Connecting raises asyncpg's and
# the system's own errors; what follows arrives wrapped by SQLAlchemy.
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


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        if isinstance(error, _TROUBLE) or error.connection_invalidated:
            raise _unavailable(error) from error
        raise
    except _TROUBLE as error:
        raise _unavailable(error) from error


def _unavailable(error: BaseException) -> CatalogueUnavailable:
    # The driver's own words go to the log as the cause; they may name hosts and users.
    return CatalogueUnavailable(f"The catalogue did not answer ({type(error).__name__}).")
