"""How we connect: one engine for SQLite or PostgreSQL, set so that COMMIT is durable."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

POOL_WAIT_SECONDS = 5
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10

# Bytes that SQLite must find to be able to commit anything at all.
EMBEDDED_RESERVE = 256 * 1024

_PRAGMAS = (
    "journal_mode=WAL",
    # The usual NORMAL loses acknowledged rows at a power cut.
    "synchronous=FULL",
    "busy_timeout=5000",
    "foreign_keys=ON",
)


def connect(url: str) -> AsyncEngine:
    """Return an engine for `url`; nothing is opened before its first use. Dispose of it."""
    if url.startswith("sqlite"):
        return _connect_sqlite(url)
    return create_async_engine(
        url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,  # they hold file names and metadata, which no log is to have
        connect_args={"timeout": CONNECT_SECONDS, "command_timeout": STATEMENT_SECONDS},
    )


def _connect_sqlite(url: str) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=5,
        pool_timeout=POOL_WAIT_SECONDS,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    # A transaction that takes the write lock only half-way fails where another holds it.
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
