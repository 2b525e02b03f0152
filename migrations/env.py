"""Runs the migrations: on the service's own connection, or for `alembic` on one made here."""

import asyncio

import sqlalchemy as sa
from alembic import context

from file_service.catalogue.engine import connect
from file_service.catalogue.tables import schema


def run(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=schema, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_on_own_connection() -> None:
    # Imported here: in the service the settings are read by the command line, and only there.
    from file_service.config import read_settings  # noqa: PLC0415

    engine = connect(read_settings().database_url)
    try:
        await engine.write(run)
    finally:
        await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_on_own_connection())
