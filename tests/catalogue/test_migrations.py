import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from file_service.catalogue.engine import Engine, connect
from file_service.catalogue.schema import make_config, migrate, prepare
from file_service.catalogue.tables import schema
from file_service.errors import StartupError


def revisions() -> list[Script]:
    """Every migration, oldest first."""
    return list(reversed(list(ScriptDirectory.from_config(make_config()).walk_revisions())))


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A catalogue without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/bare.db"
        return
    url: str = request.getfixturevalue("postgres_url")
    asyncio.run(_execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public"))
    yield url
    asyncio.run(_execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public"))
    asyncio.run(prepare(url, upgrade=True))


async def _execute(url: str, *statements: str) -> None:
    engine = connect(url)
    for statement in statements:
        await engine.read(partial(sa.Connection.execute, statement=sa.text(statement)))
    await engine.dispose()


@pytest.fixture
async def bare(bare_url: str) -> AsyncIterator[Engine]:
    engine = connect(bare_url)
    yield engine
    await engine.dispose()


async def step(engine: Engine, direction: str, revision: str) -> None:
    go = {"up": command.upgrade, "down": command.downgrade}[direction]
    await engine.write(lambda connection: go(make_config(connection), revision))


async def tables(engine: Engine) -> set[str]:
    names = await engine.read(lambda connection: sa.inspect(connection).get_table_names())
    return set(names) - {"alembic_version"}


async def test_every_migration_goes_up_down_and_up(bare: Engine) -> None:
    for script in revisions():
        before = await tables(bare)
        await step(bare, "up", script.revision)
        await step(bare, "down", "-1")
        assert await tables(bare) == before
        await step(bare, "up", script.revision)
    await step(bare, "down", "base")
    assert await tables(bare) == set()


async def test_the_migrations_make_the_tables_that_the_code_knows(bare: Engine) -> None:
    await migrate(bare)

    def compare(connection: sa.Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, schema))

    assert await bare.read(compare) == []


async def test_migrating_twice_changes_nothing(bare: Engine) -> None:
    await migrate(bare)
    before = await tables(bare)
    await migrate(bare)
    assert await tables(bare) == before


async def test_several_migrators_at_once_all_succeed(bare_url: str) -> None:
    await asyncio.gather(*(prepare(bare_url, upgrade=True) for _ in range(4)))
    await prepare(bare_url, upgrade=False)


async def test_an_outdated_schema_is_told(bare_url: str) -> None:
    with pytest.raises(StartupError, match="file-service migrate"):
        await prepare(bare_url, upgrade=False)


def test_the_migrations_are_one_line_of_descent() -> None:
    assert len(ScriptDirectory.from_config(make_config()).get_heads()) == 1
    assert [script.revision for script in revisions()] == sorted(
        script.revision for script in revisions()
    )
