"""The schema's version: brought up to date, and asked for, through Alembic's migrations."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from file_service.catalogue.engine import Engine, connect
from file_service.errors import StartupError

# Any number, the same in every release: migrators on several machines queue behind this lock.
_LOCK = 0x66696C65


def make_config(connection: sa.Connection | None = None) -> Config:
    """Return Alembic's configuration for our migrations, on `connection` where one is given."""
    config = Config()
    config.set_main_option("script_location", str(_find_migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def prepare(url: str, *, upgrade: bool) -> None:
    """See that the database answers and its schema is current, bringing it up to date if told.

    Safe to run twice, and from several machines at once. StartupError says what is wrong.
    """
    with _explained():
        engine = connect(url)
        try:
            if upgrade:
                await migrate(engine)
            elif not await _is_current(engine):
                raise StartupError(
                    "the catalogue's schema is not up to date: run file-service migrate"
                )
        finally:
            await engine.dispose()


async def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to `revision`, in one transaction that excludes other migrators."""

    def upgrade(connection: sa.Connection) -> None:
        if engine.dialect == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        command.upgrade(make_config(connection), revision)

    await engine.write(upgrade)


async def _is_current(engine: Engine) -> bool:
    wanted = set(ScriptDirectory.from_config(make_config()).get_heads())
    return await engine.read(_get_heads) == wanted


def _get_heads(connection: sa.Connection) -> set[str]:
    return set(MigrationContext.configure(connection).get_current_heads())


@contextmanager
def _explained() -> Iterator[None]:
    """Turn whatever the driver raises into the one line that its deepest cause says."""
    try:
        yield
    except (sa.exc.ArgumentError, ValueError, TypeError, OverflowError):
        # What the driver says to an option or a port it does not know. Not shown: the URL may
        # hold a password.
        raise StartupError("--database-url is not the URL of a database") from None
    except (sa.exc.SQLAlchemyError, asyncpg.PostgresError, OSError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        line = (str(cause) or type(cause).__name__).strip().splitlines()[0]
        raise StartupError(f"the database cannot be used: {line}") from error


def _find_migrations() -> Path:
    # Inside the package in a wheel, beside it in a checkout.
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
