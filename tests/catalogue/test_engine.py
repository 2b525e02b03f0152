"""Transactions in threads: what becomes of one that nobody waits for any more."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from file_service.catalogue.additions import insert_files
from file_service.catalogue.database import Database
from file_service.catalogue.engine import Commit, SQLite, connect
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.schema import prepare
from file_service.errors import (
    CatalogueUnavailable,
    FileNotFound,
    OutcomeUnknown,
    StartupError,
)
from tests.catalogue.test_queries import make_file

PATIENCE = 20.0


@dataclass(eq=False)
class Stop:
    """A place where a thread stops, until it may go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *_: object) -> None:
        self.reached.set()
        assert self.may_go_on.wait(PATIENCE)

    async def wait_until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, PATIENCE)


@pytest.fixture
async def sqlite(sqlite_template: Path, tmp_path: Path) -> AsyncIterator[SQLite]:
    shutil.copy(sqlite_template, tmp_path / "catalogue.db")
    engine = connect(f"sqlite:///{tmp_path}/catalogue.db")
    assert isinstance(engine, SQLite)
    yield engine
    await engine.dispose()


@pytest.fixture
def commits() -> Iterator[Stop]:
    """Every COMMIT stops as it begins."""
    stop = Stop()
    event.listen(sa.Engine, "commit", stop)
    yield stop
    event.remove(sa.Engine, "commit", stop)


def ask(connection: sa.Connection) -> object:
    return connection.scalar(sa.text("SELECT 1"))


async def is_there(engine: SQLite, file_id: str) -> bool:
    try:
        await Catalogue(Database(engine)).get_file(file_id)
    except FileNotFound:
        return False
    return True


async def test_a_transaction_given_up_before_its_commit_comes_to_nothing(sqlite: SQLite) -> None:
    stop, file, commit = Stop(), make_file(), Commit()

    def work(connection: sa.Connection) -> None:
        insert_files(connection, [file])
        stop()

    writing = asyncio.create_task(sqlite.write(work, commit))
    await stop.wait_until_reached()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    stop.may_go_on.set()
    await sqlite.write(lambda connection: None)  # has its turn after the other one
    assert not await is_there(sqlite, file.id)
    assert commit.give_up()


async def test_a_transaction_given_up_after_its_commit_began_may_have_happened(
    sqlite: SQLite, commits: Stop
) -> None:
    file, commit = make_file(), Commit()
    writing = asyncio.create_task(
        sqlite.write(lambda connection: insert_files(connection, [file]), commit)
    )
    await commits.wait_until_reached()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not commit.give_up()
    commits.may_go_on.set()
    await sqlite.write(lambda connection: None)
    assert commit.is_done
    assert await is_there(sqlite, file.id)


async def test_a_transaction_given_up_while_it_queues_is_not_begun(sqlite: SQLite) -> None:
    stop, begun = Stop(), list[sa.Connection]()
    before = asyncio.create_task(sqlite.write(stop))
    await stop.wait_until_reached()
    commit = Commit()
    queued = asyncio.create_task(sqlite.write(begun.append, commit))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert commit.give_up()
    stop.may_go_on.set()
    await before
    await sqlite.write(lambda connection: None)
    assert begun == []


async def test_readers_do_not_wait_for_a_writer(sqlite: SQLite) -> None:
    stop = Stop()
    writing = asyncio.create_task(sqlite.write(stop))
    await stop.wait_until_reached()
    assert await sqlite.read(ask) == 1
    stop.may_go_on.set()
    await writing


async def test_files_whose_insert_takes_too_long_are_certainly_not_there(
    sqlite: SQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("file_service.catalogue.database.LIMIT_SECONDS", 0.2)
    stop, file = Stop(), make_file()
    event.listen(sqlite._writing, "before_cursor_execute", stop)
    with pytest.raises(CatalogueUnavailable):
        await Catalogue(Database(sqlite)).add_files([file])
    event.remove(sqlite._writing, "before_cursor_execute", stop)
    stop.may_go_on.set()
    await sqlite.write(lambda connection: None)
    assert not await is_there(sqlite, file.id)


async def test_files_whose_commit_takes_too_long_may_be_there(
    sqlite: SQLite, monkeypatch: pytest.MonkeyPatch, commits: Stop
) -> None:
    monkeypatch.setattr("file_service.catalogue.database.LIMIT_SECONDS", 0.2)
    file = make_file()
    with pytest.raises(OutcomeUnknown):
        await Catalogue(Database(sqlite)).add_files([file])
    commits.may_go_on.set()
    await sqlite.write(lambda connection: None)
    assert await is_there(sqlite, file.id)


async def test_those_who_give_up_while_a_writer_hangs_leave_nothing_in_its_queue(
    sqlite: SQLite,
) -> None:
    stop = Stop()
    hanging = asyncio.create_task(sqlite.write(stop))
    await stop.wait_until_reached()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sqlite.write(ask), 0.001)
    assert sqlite._writer._executor._work_queue.qsize() == 0
    stop.may_go_on.set()
    await hanging
    assert await sqlite.write(ask) == 1


async def test_a_commit_that_fails_leaves_no_lock(sqlite: SQLite, tmp_path: Path) -> None:
    busy = sqlite3.OperationalError("database is locked")
    with (
        patch.object(sqlite._writing.dialect, "do_commit", side_effect=busy),
        pytest.raises(sa.exc.OperationalError),
    ):
        await sqlite.write(lambda connection: insert_files(connection, [make_file()]))
    with closing(sqlite3.connect(tmp_path / "catalogue.db", timeout=0)) as another:
        another.execute("BEGIN IMMEDIATE")
        another.rollback()
    assert await sqlite.write(ask) == 1


async def test_a_catalogue_without_a_write_ahead_log_is_refused() -> None:
    with pytest.raises(StartupError, match="no write-ahead log where the catalogue is"):
        await prepare("sqlite://", upgrade=True)


async def test_a_closed_engine_leaves_no_thread(sqlite: SQLite) -> None:
    await asyncio.gather(sqlite.read(ask), sqlite.read(ask))
    await sqlite.write(lambda connection: None)
    assert [each for each in threading.enumerate() if each.name.startswith("catalogue-")]
    await sqlite.dispose()
    assert not [each for each in threading.enumerate() if each.name.startswith("catalogue-")]
