"""The schema's version: brought up to date, and asked for, through Alembic's migrations."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine

# Any number, the same in every release: migrators on several machines queue behind this lock.
_LOCK = 0x66696C65


def make_config(connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration for our migrations, on `connection` where one is given."""
    config = Config()
    config.set_main_option("script_location", str(_find_migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Bring the schema up to `revision`; safe to run twice, and from several machines at once."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        await connection.run_sync(lambda sync: command.upgrade(make_config(sync), revision))


async def is_current(engine: AsyncEngine) -> bool:
    """Whether the schema is the one this release was written for."""
    async with engine.connect() as connection:
        return await connection.run_sync(_is_current)


def _is_current(connection: sa.Connection) -> bool:
    wanted = ScriptDirectory.from_config(make_config()).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(wanted)


def _find_migrations() -> Path:
    # Inside the package in a wheel, beside it in a checkout.
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
