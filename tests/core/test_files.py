from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from file_service.blobs.local import LocalStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.files import Files
from file_service.core.upkeep import Settled, Upkeep
from file_service.core.uploads import Uploads
from file_service.errors import CatalogueUnavailable, FileNotFound, StoreUnavailable, Unavailable
from file_service.models import File, NewUpload
from tests.core.test_uploads import lying_in, stream
from tests.doubles import Failing


@pytest.fixture
async def file(uploads: Uploads) -> File:
    return await uploads.store(NewUpload(), stream(b"content"))


async def test_a_deletion_leaves_neither_bytes_nor_a_note(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, file: File, tmp_path: Path
) -> None:
    await Files(store, catalogue, rows).delete(file.id)
    assert lying_in(tmp_path / "files") == []
    assert await catalogue.find_removals(10) == []


async def test_bytes_that_cannot_be_removed_are_a_404_at_once_and_removed_later(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    upkeep: Upkeep,
    file: File,
    tmp_path: Path,
) -> None:
    stuck = Failing(store, on="delete", error=StoreUnavailable("read-only"))
    files = Files(stuck, catalogue, rows)
    await files.delete(file.id)
    for attempt in (files.get, files.delete):
        with pytest.raises(FileNotFound):
            await attempt(file.id)
    assert await catalogue.find_removals(10) == [file.id]
    assert lying_in(tmp_path / "files") == [file.id]

    assert (await Upkeep(stuck, catalogue, rows).settle()).failed == 1
    assert await upkeep.settle() == Settled(removed=1)
    assert lying_in(tmp_path / "files") == []
    assert await catalogue.find_removals(10) == []


async def test_a_note_that_cannot_be_dropped_does_no_harm(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep, file: File
) -> None:
    away = Failing(catalogue, on="drop_removals", error=CatalogueUnavailable("away"))
    await Files(store, away, rows).delete(file.id)  # type: ignore[arg-type]  # a double of the catalogue
    assert await catalogue.find_removals(10) == [file.id]
    assert await upkeep.settle() == Settled(removed=1)
    assert await upkeep.settle() == Settled()


async def test_when_the_row_cannot_be_removed_the_file_stays_whole(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, file: File
) -> None:
    away = Failing(catalogue, on="remove_file", error=CatalogueUnavailable("away"))
    with pytest.raises(CatalogueUnavailable):
        await Files(store, away, rows).delete(file.id)  # type: ignore[arg-type]  # a double of the catalogue
    assert [chunk async for chunk in Files(store, catalogue, rows).read(file)] == [b"content"]


async def test_a_file_deleted_while_it_is_asked_for_is_not_found(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, file: File
) -> None:
    files = Files(store, catalogue, rows)
    await files.delete(file.id)
    with pytest.raises(FileNotFound):
        await files.open(file)


async def test_an_upload_whose_outcome_is_open_is_no_404(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    key = str(uuid4())
    await store.append(key, 0, stream(b"content"))
    with pytest.raises(Unavailable):
        await Files(store, catalogue, rows).get(key)
    await store.discard(key)
    with pytest.raises(FileNotFound):
        await Files(store, catalogue, rows).get(key)


class Settling:
    """A store beside which, between two looks, another process settles an upload in doubt."""

    def __init__(self, store: LocalStore, settle: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._settle = settle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def has_stage(self, key: str) -> bool:
        await self._settle()
        return await self._store.has_stage(key)


async def test_a_file_that_comes_to_exist_while_it_is_looked_for_is_found(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, file: File
) -> None:
    other = replace(file, id=str(uuid4()))

    async def settle() -> None:
        await catalogue.add_files([other])

    late: Any = Settling(store, settle)
    assert await Files(late, catalogue, rows).get(other.id) == other


async def test_a_deletion_of_what_is_still_in_doubt_is_no_404(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    key = str(uuid4())
    await store.append(key, 0, stream(b"x"))
    files = Files(store, catalogue, rows)
    for attempt in (files.get, files.delete):
        with pytest.raises(Unavailable):
            await attempt(key)
