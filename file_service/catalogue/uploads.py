"""UploadRows: every SQL statement about uploads in many requests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa

from file_service.catalogue.additions import insert_files
from file_service.catalogue.database import Database
from file_service.catalogue.queries import note_removal
from file_service.catalogue.tables import upload
from file_service.errors import UploadLost, UploadNotFound
from file_service.models import File, Manner, NewUpload, Upload

OPEN, FINISHED = "open", "finished"

_GET = sa.select(upload).where(upload.c.id == sa.bindparam("key"))
# Sets what is among the parameters, where nobody has taken the upload over.
_BY_HOLDER = sa.update(upload).where(
    upload.c.id == sa.bindparam("key"),
    upload.c.fence == sa.bindparam("holder"),
    upload.c.state == OPEN,
)
_RESERVED = sa.select(
    sa.func.coalesce(sa.func.sum(upload.c.length - upload.c.offset), 0).label("size")
).where(
    upload.c.state == OPEN,
    upload.c.length.is_not(None),
    upload.c.expires_at > sa.bindparam("now"),
)
_FIND_EXPIRED = (
    sa.select(upload)
    .where(upload.c.expires_at <= sa.bindparam("now"))
    .order_by(upload.c.expires_at)
    .limit(sa.bindparam("most"))
)


class UploadRows:
    """The rows of uploads. Every method may raise CatalogueUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: Upload) -> None:
        """Make an upload exist."""
        await self._database.change(sa.insert(upload), _to_row(new))

    async def get(self, upload_id: str) -> Upload:
        """Return the upload of this id; UploadNotFound where there is none."""
        return _from_rows(upload_id, await self._database.read(_GET, {"key": upload_id}))

    async def find_same(self, manner: Manner) -> Upload | None:
        """Return the upload that was last created in the very same words, None where none was."""
        query = (
            sa.select(upload)
            .where(
                upload.c.concat == manner.concat,
                upload.c.sent_metadata.is_not_distinct_from(manner.sent_metadata),
            )
            .order_by(upload.c.created_at.desc())
            .limit(1)
        )
        rows = await self._database.read(query)
        return _from_row(rows[0]) if rows else None

    async def sum_reserved(self) -> int:
        """Return how many bytes were declared and have not arrived yet, of all open uploads."""
        [found] = await self._database.read(_RESERVED, {"now": datetime.now(UTC)})
        return int(found.size)

    async def claim(self, upload_id: str) -> Upload:
        """Become the holder of an open upload: what an earlier one still writes is void."""
        statement = (
            sa.update(upload)
            .where(upload.c.id == upload_id, upload.c.state == OPEN)
            .values(fence=upload.c.fence + 1, is_held=True, wish=0)
            .returning(*upload.c)
        )
        rows = await self._database.write(lambda connection: connection.execute(statement).all())
        return _from_rows(upload_id, rows)

    async def let_go(self, held: Upload) -> None:
        """Be its holder no more; harmless for one who was not the last."""
        await self._database.change(_BY_HOLDER, _as_holder(held) | {"is_held": False})

    async def advance(self, held: Upload, offset: int, *, expires_at: datetime) -> Upload:
        """Move the offset to `offset` durable bytes; UploadLost where somebody else holds it."""
        values = {"offset": offset, "expires_at": expires_at}
        await self._database.write(partial(_change, held=held, values=values))
        return replace(held, offset=offset, expires_at=expires_at)

    async def declare(self, held: Upload, length: int) -> Upload:
        """Write down the length, once it is known."""
        await self._database.write(partial(_change, held=held, values={"length": length}))
        return replace(held, new=replace(held.new, length=length))

    async def go_back(self, held: Upload, before: Upload) -> Upload:
        """Move the offset back, and forget a length, to where they were `before`."""
        values = {"offset": before.offset, "length": before.length}
        await self._database.write(partial(_change, held=held, values=values))
        new = replace(held.new, length=before.length)
        return replace(held, offset=before.offset, new=new)

    async def finish(self, held: Upload, file: File | None) -> Upload:
        """End an upload: by the same transaction the file exists, unless it is a part."""

        def end(connection: sa.Connection) -> None:
            _change(connection, held, {"state": FINISHED, "is_held": False})
            if file is not None:
                insert_files(connection, [file])

        await self._database.write(end)
        return replace(held, is_finished=True, is_held=False)

    async def wish(self, upload_id: str, wish: int) -> None:
        """Tell the holder, wherever it is, that somebody else wants the upload."""
        statement = (
            sa.update(upload)
            .where(upload.c.id == upload_id, upload.c.wish < wish)
            .values(wish=wish)
        )
        await self._database.change(statement)

    async def find_wishes(self, ids: Collection[str]) -> dict[str, int]:
        """Return what is wanted of the holders of `ids`, where anything is."""
        query = sa.select(upload.c.id, upload.c.wish).where(upload.c.id.in_(ids), upload.c.wish > 0)
        return {row.id: row.wish for row in await self._database.read(query)}

    async def find_known(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` whose staged bytes still belong to an upload."""
        query = sa.select(upload.c.id).where(
            upload.c.id.in_(ids),
            sa.or_(upload.c.state == OPEN, upload.c.concat == "partial"),
        )
        return {row.id for row in await self._database.read(query)}

    async def find_expired(self, now: datetime, most: int) -> list[Upload]:
        """Return at most `most` uploads that have come to the end of their time."""
        rows = await self._database.read(_FIND_EXPIRED, {"now": now, "most": most})
        return [_from_row(row) for row in rows]

    async def remove_expired(self, ids: Sequence[str], now: datetime) -> int:
        """Remove those of `ids` that are past their time and in nobody's hands; count them."""
        are_over = (upload.c.id.in_(ids), upload.c.expires_at <= now, upload.c.is_held.is_(False))
        return len(await self._database.write(partial(_remove, where=are_over)))

    async def expire(self, ids: Sequence[str], at: datetime) -> None:
        """Have uploads come to the end of their time at `at`, where that is sooner."""
        statement = (
            sa.update(upload)
            .where(upload.c.id.in_(ids), upload.c.expires_at > at)
            .values(expires_at=at)
        )
        await self._database.change(statement)

    async def remove(self, known: Upload) -> bool:
        """Make the upload not exist; return whether its bytes go, and are not a file's.

        UploadNotFound where it does not exist already, or has another holder.
        """
        is_same = (upload.c.id == known.id, upload.c.fence == known.fence)
        removed = await self._database.write(partial(_remove, where=is_same))
        if not removed:
            raise UploadNotFound(f"No upload has the id {known.id}.")
        return _has_bytes(removed[0])


def _remove(connection: sa.Connection, where: Sequence[sa.ColumnElement[bool]]) -> Sequence[Any]:
    """Delete rows, and note for removal the bytes that belong to them."""
    columns = (upload.c.id, upload.c.state, upload.c.concat)
    rows = connection.execute(sa.delete(upload).where(*where).returning(*columns)).all()
    for row in rows:
        if _has_bytes(row):
            note_removal(connection, row.id)
    return rows


def _has_bytes(row: Any) -> bool:
    """Whether an upload's bytes are its own: those of one that is finished are a file's."""
    return bool(row.state == OPEN or row.concat == "partial")


def _as_holder(held: Upload) -> dict[str, Any]:
    return {"key": held.id, "holder": held.fence}


def _change(connection: sa.Connection, held: Upload, values: Mapping[str, Any]) -> None:
    if connection.execute(_BY_HOLDER, {**_as_holder(held), **values}).rowcount == 0:
        raise UploadLost("A newer request has taken the upload over, or ended it.")


def _to_row(value: Upload) -> dict[str, Any]:
    new, manner = value.new, value.manner
    return {
        "id": value.id,
        "state": FINISHED if value.is_finished else OPEN,
        "offset": value.offset,
        "length": new.length,
        "name": new.name,
        "media_type": new.media_type,
        "metadata": dict(new.metadata),
        "digests": {name: digest.hex() for name, digest in new.digests.items()},
        "wanted_digests": sorted(new.wanted_digests),
        "dialect": manner.dialect,
        "interop": manner.interop,
        "sent_metadata": manner.sent_metadata,
        "concat": manner.concat,
        "created_at": value.created_at,
        "expires_at": value.expires_at,
        "fence": value.fence,
        "is_held": value.is_held,
        "wish": 0,
    }


def _from_rows(upload_id: str, rows: Sequence[Any]) -> Upload:
    if not rows:
        raise UploadNotFound(f"No upload has the id {upload_id}.")
    return _from_row(rows[0])


def _from_row(row: Any) -> Upload:
    digests = {name: bytes.fromhex(digest) for name, digest in row.digests.items()}
    new = NewUpload(
        name=row.name,
        media_type=row.media_type,
        length=row.length,
        metadata=row.metadata,
        digests=digests,
        wanted_digests=frozenset(row.wanted_digests),
    )
    manner = Manner(
        dialect=row.dialect,
        interop=row.interop,
        sent_metadata=row.sent_metadata,
        concat=row.concat,
    )
    return Upload(
        id=row.id,
        new=new,
        manner=manner,
        offset=row.offset,
        created_at=row.created_at,
        expires_at=row.expires_at,
        is_finished=row.state == FINISHED,
        is_held=row.is_held,
        fence=row.fence,
    )
