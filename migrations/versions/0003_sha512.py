"""The SHA-512 of files whose uploaders asked for one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("file") as table:
        table.add_column(sa.Column("sha512", sa.String(128), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("file") as table:
        table.drop_column("sha512")
