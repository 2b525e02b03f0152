"""Catalogue: every SQL statement about files."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from file_service.catalogue.additions import Additions
from file_service.catalogue.database import Database, Shared
from file_service.catalogue.tables import FILE_COLUMNS, file, removal, store, upload
from file_service.errors import FileNotFound
from file_service.models import File

QUESTIONS = 8  # at once: one that hangs is not to keep the others waiting

READY, ABORTED = "ready", "aborted"

FIRST_ID = "00000000-0000-0000-0000-000000000000"  # before every id, in text and as a UUID

_FILES = sa.select(*(file.c[name] for name in FILE_COLUMNS)).where(file.c.state == READY)
_GET_FILES = _FILES.where(file.c.id.in_(sa.bindparam("ids", expanding=True)))
_WALK_FILES = (
    _FILES.where(file.c.id > sa.bindparam("after")).order_by(file.c.id).limit(sa.bindparam("most"))
)
_REMOVE_FILE = sa.delete(file).where(file.c.id == sa.bindparam("id"), file.c.state == READY)
_FIND_REMOVALS = (
    sa.select(removal.c.id)
    .where(removal.c.id > sa.bindparam("after"))
    .order_by(removal.c.id)
    .limit(sa.bindparam("most"))
)
_GET_STATE = sa.select(file.c.state).where(file.c.id == sa.bindparam("id"))
_COUNT = sa.select(
    sa.func.count().label("files"), sa.func.coalesce(sa.func.sum(file.c.size), 0).label("size")
).where(file.c.state == READY)
_HAS_FENCES = sa.select(sa.literal(1)).where(file.c.state == ABORTED).limit(1)
_DROP_FENCES = sa.delete(file).where(
    file.c.state == ABORTED, file.c.created_at < sa.bindparam("before")
)
_RISKS = sa.text(
    "SELECT name FROM pg_settings WHERE setting = 'off'"
    " AND name IN ('fsync', 'synchronous_commit', 'full_page_writes') ORDER BY name"
)


class Catalogue:
    """The rows. Every method may raise CatalogueUnavailable.

    One that only writes may have written then: it is to be called again, which is harmless.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._additions = Additions(database)
        self._questions = Shared(self._get_files, turns=QUESTIONS)

    async def admit(self) -> None:
        """Raise CatalogueUnavailable where an upload would find no database at its end."""
        await self._database.admit()

    async def check(self) -> None:
        """Raise CatalogueUnavailable or NoRoom unless the database can take a row now."""
        await self._database.check()

    async def add_files(self, files: Sequence[File]) -> None:
        """Make `files` exist, all of them or none; OutcomeUnknown where COMMIT gave no answer."""
        await self._additions.add(files)

    async def get_file(self, file_id: str) -> File:
        """Return the file of this id; FileNotFound where there is none.

        Those who ask while others are being answered share the next question.
        """
        found = await self._questions.ask(file_id)
        if found is None:
            raise FileNotFound(f"No file has the id {file_id}.")
        return found

    async def _get_files(self, ids: Sequence[str]) -> list[File | None]:
        rows = await self._database.read(_GET_FILES, {"ids": ids})
        found = {row.id: File(**row._mapping) for row in rows}
        return [found.get(file_id) for file_id in ids]

    async def remove_file(self, file_id: str) -> None:
        """Make the file not exist and note its blob for removal, in one transaction.

        FileNotFound where it does not exist already.
        """

        def remove(connection: sa.Connection) -> None:
            if connection.execute(_REMOVE_FILE, {"id": file_id}).rowcount == 0:
                raise FileNotFound(f"No file has the id {file_id}.")
            connection.execute(sa.delete(upload).where(upload.c.id == file_id))
            note_removal(connection, file_id)

        await self._database.write(remove)

    async def find_removals(self, most: int, after: str = FIRST_ID) -> list[str]:
        """Return the keys of at most `most` blobs noted for removal, in order, from `after` on."""
        rows = await self._database.read(_FIND_REMOVALS, {"most": most, "after": after})
        return [row.id for row in rows]

    async def drop_removals(self, keys: Sequence[str]) -> None:
        """Forget the notes of blobs that are gone."""
        await self._database.change(sa.delete(removal).where(removal.c.id.in_(keys)))

    async def fence(self, key: str) -> bool:
        """Settle an upload whose outcome nobody knows; return whether it became a file.

        The insert waits for a transaction in doubt that has the same id, and takes the id away
        from one that comes later. Settling again gives the same answer.
        """
        fence = {
            "id": key, "name": "", "size": 0, "media_type": "", "sha256": "",
            "created_at": datetime.now(UTC), "metadata": {}, "state": ABORTED,
        }  # fmt: skip

        def settle(connection: sa.Connection) -> bool:
            connection.execute(self._database.insert(file).on_conflict_do_nothing(), fence)
            return connection.scalar(_GET_STATE, {"id": key}) == READY

        return await self._database.write(settle)

    async def drop_fences(self, before: datetime) -> int:
        """Drop the fences put up before then: no statement of their uploads can still arrive."""
        if not await self._database.read(_HAS_FENCES):
            return 0  # nearly always: nobody has to wait for a write lock
        return await self._database.change(_DROP_FENCES, {"before": before})

    async def find_known(self, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` that are files, or whose removal is noted already."""
        query = sa.union(
            sa.select(file.c.id).where(file.c.id.in_(keys), file.c.state == READY),
            sa.select(removal.c.id).where(removal.c.id.in_(keys)),
        )
        return {row.id for row in await self._database.read(query)}

    async def count_files(self) -> tuple[int, int]:
        """Return how many files there are and how many bytes they have together."""
        [found] = await self._database.read(_COUNT)
        return found.files, int(found.size)

    async def walk_files(self, most: int = 500) -> AsyncIterator[File]:
        """Yield every file in the order of ids, without holding a connection meanwhile."""
        after = FIRST_ID
        while True:
            rows = await self._database.read(_WALK_FILES, {"after": after, "most": most})
            for row in rows:
                yield File(**row._mapping)
            if len(rows) < most:
                return
            after = rows[-1].id

    async def find_store(self) -> str | None:
        """Return the identity of the folder that belongs here, None where none does yet."""
        rows = await self._database.read(sa.select(store.c.id))
        return str(rows[0].id) if rows else None

    async def claim_store(self, store_id: str) -> str:
        """Return the identity of the folder that belongs here: `store_id` where there was none."""
        claim = self._database.insert(store).on_conflict_do_nothing()

        def settle(connection: sa.Connection) -> str:
            connection.execute(claim, {"place": 0, "id": store_id})
            return str(connection.scalar(sa.select(store.c.id)))

        return await self._database.write(settle)

    async def find_risks(self) -> list[str]:
        """Return the database settings that let it lose what it has acknowledged."""
        if self._database.engine.dialect != "postgresql":
            return []
        return [row.name for row in await self._database.read(_RISKS)]


def note_removal(connection: sa.Connection, key: str) -> None:
    """Note the bytes of `key` for removal by the transaction of `connection`."""
    connection.execute(sa.insert(removal), {"id": key, "noted_at": datetime.now(UTC)})
