"""Files that are added at the same time share a transaction, and nothing else."""

import asyncio
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect

from file_service.catalogue import additions
from file_service.catalogue.database import MOST, Database
from file_service.catalogue.queries import Catalogue
from file_service.errors import FileNotFound, OutcomeUnknown
from file_service.models import File
from tests.catalogue.test_queries import make_file


@pytest.fixture
def commits() -> Iterator[list[sa.Connection]]:
    """The transactions that are committed."""
    seen: list[sa.Connection] = []

    def see(connection: sa.Connection) -> None:
        seen.append(connection)

    event.listen(sa.Engine, "commit", see)
    yield seen
    event.remove(sa.Engine, "commit", see)


async def test_those_who_wait_share_a_transaction_where_there_is_one_writer(
    catalogue: Catalogue, database: Database, commits: list[sa.Connection]
) -> None:
    files = [make_file() for _ in range(100)]
    await asyncio.gather(*(catalogue.add_files([each]) for each in files))
    is_shared = database.engine.dialect == "sqlite"
    assert len(commits) <= 4 if is_shared else len(commits) == 100
    assert [await catalogue.get_file(each.id) for each in files] == files


async def test_a_transaction_has_a_bound(
    catalogue: Catalogue, commits: list[sa.Connection]
) -> None:
    files = [make_file() for _ in range(2 * MOST + 2)]
    await asyncio.gather(*(catalogue.add_files([each]) for each in files))
    assert len(commits) >= 3


async def test_what_is_wrong_with_one_is_not_the_others(catalogue: Catalogue) -> None:
    there = make_file()
    await catalogue.add_files([there])
    files = [make_file(), there, make_file(), make_file()]
    outcomes = await asyncio.gather(
        *(catalogue.add_files([each]) for each in files), return_exceptions=True
    )
    kinds = [type(each) for each in outcomes]
    assert kinds == [type(None), sa.exc.IntegrityError, type(None), type(None)]
    assert [await catalogue.get_file(each.id) for each in files] == files


async def test_nor_is_an_error_that_nobody_has_foreseen(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, bad = make_file(), make_file()
    await catalogue.add_files([there])
    insert = additions.insert_files

    def fail(connection: sa.Connection, files: Sequence[File]) -> None:
        if list(files) == [bad]:
            raise MemoryError
        insert(connection, files)

    monkeypatch.setattr(additions, "insert_files", fail)
    files = [make_file(), there, make_file(), bad, make_file()]
    outcomes = await asyncio.gather(
        *(catalogue.add_files([each]) for each in files), return_exceptions=True
    )
    kinds = [type(each) for each in outcomes]
    nothing = type(None)
    assert kinds == [nothing, sa.exc.IntegrityError, nothing, MemoryError, nothing]
    for each in (files[0], files[2], files[4]):
        assert await catalogue.get_file(each.id) == each


async def test_of_several_files_of_one_upload_none_comes_alone(catalogue: Catalogue) -> None:
    there, other, apart = make_file(), make_file(), make_file()
    await catalogue.add_files([there])
    outcomes = await asyncio.gather(
        catalogue.add_files([other, there]), catalogue.add_files([apart]), return_exceptions=True
    )
    assert isinstance(outcomes[0], sa.exc.IntegrityError)
    assert await catalogue.get_file(apart.id) == apart
    with pytest.raises(FileNotFound):
        await catalogue.get_file(other.id)


async def test_each_is_told_of_its_own_files_where_nobody_knows(catalogue: Catalogue) -> None:
    uploads = [[make_file(), make_file()] for _ in range(5)]
    with patch.object(DefaultDialect, "do_commit", side_effect=TimeoutError):
        outcomes = await asyncio.gather(
            *(catalogue.add_files(files) for files in uploads), return_exceptions=True
        )
    for files, outcome in zip(uploads, outcomes, strict=True):
        assert isinstance(outcome, OutcomeUnknown)
        assert outcome.file_ids == [each.id for each in files]


async def test_who_is_cancelled_leaves_the_others_their_files(catalogue: Catalogue) -> None:
    files = [make_file() for _ in range(5)]
    adding = [asyncio.create_task(catalogue.add_files([each])) for each in files]
    await asyncio.sleep(0)
    adding[2].cancel()
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert [type(each) for each in outcomes].count(asyncio.CancelledError) == 1
    for each in files[:2] + files[3:]:
        assert await catalogue.get_file(each.id) == each
