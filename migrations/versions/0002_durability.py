"""What recovery rests on: a file's state, notes of blobs to remove, the store's identity."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("file") as table:
        table.add_column(sa.Column("state", sa.String(8), nullable=False, server_default="ready"))
    is_fence = sa.text("state = 'aborted'")
    op.create_index(
        "ix_file_fence",
        "file",
        ["created_at"],
        postgresql_where=is_fence,
        sqlite_where=is_fence,
    )
    op.create_table(
        "removal",
        sa.Column("id", ID, nullable=False),
        sa.Column("noted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_removal"),
    )
    op.create_table(
        "store",
        sa.Column("place", sa.SmallInteger, nullable=False, autoincrement=False),
        sa.Column("id", ID, nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_store"),
    )


def downgrade() -> None:
    op.drop_table("store")
    op.drop_table("removal")
    # Fences are no files: the older release would serve them.
    op.execute("DELETE FROM file WHERE state <> 'ready'")
    op.drop_index("ix_file_fence", "file")
    with op.batch_alter_table("file") as table:
        table.drop_column("state")
