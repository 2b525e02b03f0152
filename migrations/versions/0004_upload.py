"""Uploads in many requests."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "upload",
        sa.Column("id", ID, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=True),
        sa.Column("name", sa.Text, nullable=True),
        sa.Column("media_type", sa.Text, nullable=True),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("digests", JSON, nullable=False),
        sa.Column("wanted_digests", JSON, nullable=False),
        sa.Column("dialect", sa.String(8), nullable=False),
        sa.Column("interop", sa.SmallInteger, nullable=True),
        sa.Column("sent_metadata", sa.Text, nullable=True),
        sa.Column("concat", sa.Text, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("is_held", sa.Boolean, nullable=False),
        sa.Column("wish", sa.SmallInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_upload"),
    )
    op.create_index("ix_upload_expires_at", "upload", ["expires_at"])


def downgrade() -> None:
    # Their stages have no row any more: recovery removes them.
    op.drop_index("ix_upload_expires_at", "upload")
    op.drop_table("upload")
