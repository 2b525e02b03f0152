"""The tables of the catalogue; migrations are tested against them."""

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from file_service.models import File

schema = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# UUIDs as their canonical text, on both databases: the same spelling in a URL, on disk and in SQL.
Id = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware UTC times; SQLite forgets the zone, so it is put back on reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Return `value` as an aware UTC time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


file = sa.Table(
    "file",
    schema,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("media_type", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    # 'ready', or 'aborted': a fence, which keeps the id of a lost upload from ever becoming a file.
    sa.Column("state", sa.String(8), nullable=False, server_default="ready"),
    sa.Column("sha512", sa.String(128), nullable=True),
)

# Fences are few and looked for often; files are many.
sa.Index(
    "ix_file_fence",
    file.c.created_at,
    postgresql_where=file.c.state == "aborted",
    sqlite_where=file.c.state == "aborted",
)

# Blobs whose row is gone and whose bytes may not be yet.
removal = sa.Table(
    "removal",
    schema,
    sa.Column("id", Id, primary_key=True),
    sa.Column("noted_at", UtcDateTime, nullable=False),
)

# The folder that belongs to this catalogue: one row, place 0.
store = sa.Table(
    "store",
    schema,
    sa.Column("place", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("id", Id, nullable=False),
)

# Files in the making, uploaded in many requests; their bytes are staged under the same id.
upload = sa.Table(
    "upload",
    schema,
    sa.Column("id", Id, primary_key=True),
    # 'open', or 'finished': the file of this id exists, or a part waits to be concatenated.
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("length", sa.BigInteger, nullable=True),
    sa.Column("name", sa.Text, nullable=True),
    sa.Column("media_type", sa.Text, nullable=True),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("digests", Json, nullable=False),
    sa.Column("wanted_digests", Json, nullable=False),
    sa.Column("dialect", sa.String(8), nullable=False),
    sa.Column("interop", sa.SmallInteger, nullable=True),
    sa.Column("sent_metadata", sa.Text, nullable=True),
    sa.Column("concat", sa.Text, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
    # Grows with every holder: what an earlier one still writes does not count.
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("is_held", sa.Boolean, nullable=False),
    # What somebody else wants of the holder; see core.holds.Wish.
    sa.Column("wish", sa.SmallInteger, nullable=False),
)

FILE_COLUMNS = tuple(field.name for field in fields(File))


def to_row(value: File) -> dict[str, Any]:
    """Return a file as a row of its table."""
    row = {name: getattr(value, name) for name in FILE_COLUMNS}
    row["metadata"] = dict(value.metadata)
    return row
