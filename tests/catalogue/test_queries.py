import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from file_service.catalogue import engine as engine_module
from file_service.catalogue.database import Database
from file_service.catalogue.engine import connect
from file_service.catalogue.queries import Catalogue
from file_service.errors import CatalogueUnavailable, FileNotFound
from file_service.models import File


def make_file(**changes: object) -> File:
    fields: dict[str, object] = {
        "id": str(uuid4()),
        "name": "отчёт 📦.pdf",
        "size": 5_000_000_000,
        "media_type": "application/pdf",
        "sha256": "ab" * 32,
        "created_at": datetime(2026, 11, 20, 8, 0, 0, 123456, tzinfo=UTC),
        "metadata": {"title": "Отчёт", "empty": ""},
    }
    return File(**(fields | changes))  # type: ignore[arg-type]


async def test_what_was_added_is_found_as_it_was(catalogue: Catalogue) -> None:
    file = make_file()
    await catalogue.add_files([file])
    assert await catalogue.get_file(file.id) == file


async def test_several_files_are_added_all_or_none(catalogue: Catalogue) -> None:
    first, second = make_file(), make_file()
    await catalogue.add_files([first])
    with pytest.raises(IntegrityError):
        await catalogue.add_files([second, first])
    with pytest.raises(FileNotFound):
        await catalogue.get_file(second.id)


async def test_what_is_not_there_is_not_found(catalogue: Catalogue) -> None:
    with pytest.raises(FileNotFound):
        await catalogue.get_file(str(uuid4()))
    with pytest.raises(FileNotFound):
        await catalogue.remove_file(str(uuid4()))


async def test_a_file_is_deleted_once(catalogue: Catalogue) -> None:
    file = make_file()
    await catalogue.add_files([file])
    await catalogue.remove_file(file.id)
    with pytest.raises(FileNotFound):
        await catalogue.remove_file(file.id)
    with pytest.raises(FileNotFound):
        await catalogue.get_file(file.id)


async def test_of_deletions_at_once_one_succeeds(catalogue: Catalogue) -> None:
    file = make_file()
    await catalogue.add_files([file])
    outcomes = await asyncio.gather(
        *(catalogue.remove_file(file.id) for _ in range(10)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [FileNotFound] * 9


async def test_two_hundred_writers_at_once_all_succeed(catalogue: Catalogue) -> None:
    files = [make_file() for _ in range(200)]
    await asyncio.gather(*(catalogue.add_files([file]) for file in files))
    assert [await catalogue.get_file(file.id) for file in files] == files


async def test_hundreds_who_ask_at_once_get_their_own_files(catalogue: Catalogue) -> None:
    files = [make_file() for _ in range(50)]
    await asyncio.gather(*(catalogue.add_files([each]) for each in files))
    ids = [each.id for each in files for _ in range(10)] + [str(uuid4()) for _ in range(10)]
    found = await asyncio.gather(*map(catalogue.get_file, ids), return_exceptions=True)
    assert found[:500] == [each for each in files for _ in range(10)]
    assert [type(each) for each in found[500:]] == [FileNotFound] * 10


async def test_hundreds_of_uploads_at_once_are_let_in_by_one_question(
    catalogue: Catalogue, database: Database
) -> None:
    with patch.object(database, "check", wraps=database.check) as check:
        await asyncio.gather(*(catalogue.admit() for _ in range(200)))
    assert check.call_count <= 2


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://nobody@127.0.0.1:1/nothing",
        "sqlite:////nonexistent/folder/x.db",
    ],
)
async def test_a_database_that_is_away_is_said_to_be(url: str) -> None:
    engine = connect(url)
    catalogue = Catalogue(Database(engine))
    for attempt in (
        catalogue.check(),
        catalogue.get_file(str(uuid4())),
        catalogue.remove_file(str(uuid4())),
        catalogue.add_files([make_file()]),
    ):
        with pytest.raises(CatalogueUnavailable):
            await attempt
    await engine.dispose()


async def test_sqlite_keeps_what_it_acknowledged(sqlite_template: object) -> None:
    """Power cuts lose acknowledged rows under WAL with the usual synchronous=NORMAL."""
    engine = connect(f"sqlite:///{sqlite_template}")
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }

    def find(connection: sa.Connection) -> dict[str, object]:
        return {name: connection.scalar(sa.text(f"PRAGMA {name}")) for name in wanted}

    assert [await engine.read(find), await engine.write(find)] == [wanted, wanted]
    await engine.dispose()


async def test_writers_of_one_process_take_turns_where_sqlite_has_no_queue(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = tuple(each for each in engine_module._PRAGMAS if "busy_timeout" not in each)
    monkeypatch.setattr(engine_module, "_PRAGMAS", (*impatient, "busy_timeout=0"))
    shutil.copy(sqlite_template, tmp_path / "c.db")
    engine = connect(f"sqlite:///{tmp_path}/c.db")
    catalogue = Catalogue(Database(engine))
    files = [make_file() for _ in range(40)]
    await asyncio.gather(*(catalogue.add_files([each]) for each in files))
    await asyncio.gather(*(catalogue.remove_file(each.id) for each in files))
    await engine.dispose()
