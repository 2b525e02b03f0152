import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from file_service.blobs import folder as folders
from file_service.blobs.local import LocalStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.files import Files
from file_service.core.upkeep import Upkeep
from file_service.core.uploads import Uploads
from file_service.errors import (
    CatalogueUnavailable,
    Malformed,
    NoRoom,
    OutcomeUnknown,
    StoreUnavailable,
    TooLarge,
)
from file_service.models import Chunks, File, NewUpload
from tests.doubles import Failing


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def lying_in(folder: Path) -> list[str]:
    found = [path.name for path in folder.rglob("*") if path.is_file()]
    return [name for name in found if name != folders.SENTINEL]


async def two_files() -> AsyncIterator[tuple[NewUpload, Chunks]]:
    yield NewUpload(name="a"), stream(b"1")
    yield NewUpload(name="b"), stream(b"2")


async def test_a_stored_file_is_measured_as_it_passes(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep, uploads: Uploads
) -> None:
    file = await uploads.store(NewUpload(name="x.pdf"), stream(b"ab", b"c"))
    assert (file.size, file.sha256) == (3, hashlib.sha256(b"abc").hexdigest())
    assert await catalogue.get_file(file.id) == file
    assert [chunk async for chunk in Files(store, catalogue, rows).read(file)] == [b"abc"]


@pytest.mark.parametrize("call", ["append", "commit"])
@pytest.mark.parametrize("error", [NoRoom("full"), StoreUnavailable("broken")])
async def test_when_the_store_fails_nothing_is_left(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    upkeep: Upkeep,
    uploads: Uploads,
    tmp_path: Path,
    call: str,
    error: Exception,
) -> None:
    uploads = Uploads(Failing(store, on=call, error=error), catalogue, rows, upkeep)
    with pytest.raises(type(error)):
        await uploads.store_all(two_files())
    assert lying_in(tmp_path / "files") == []


async def test_when_the_catalogue_refuses_nothing_is_left(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    upkeep: Upkeep,
    uploads: Uploads,
    tmp_path: Path,
) -> None:
    refusing = Failing(catalogue, on="add_files", error=CatalogueUnavailable("away"))
    with pytest.raises(CatalogueUnavailable):
        await Uploads(store, refusing, rows, upkeep).store_all(two_files())  # type: ignore[arg-type]
    assert lying_in(tmp_path / "files") == []


@pytest.mark.parametrize("committed", [True, False])
async def test_when_the_outcome_is_unknown_nothing_is_deleted_on_a_guess(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    upkeep: Upkeep,
    uploads: Uploads,
    tmp_path: Path,
    committed: bool,
) -> None:
    lost = Failing(
        catalogue, on="add_files", error=OutcomeUnknown(["id"], "no answer"), after=committed
    )
    with pytest.raises(OutcomeUnknown):
        await Uploads(store, lost, rows, upkeep).store(NewUpload(), stream(b"x"))  # type: ignore[arg-type]
    stage, blob = lying_in(tmp_path / "files")
    assert stage == blob
    if committed:
        assert (await catalogue.get_file(blob)).size == 1


async def test_a_cancelled_upload_leaves_nothing(
    store: LocalStore, catalogue: Catalogue, upkeep: Upkeep, uploads: Uploads, tmp_path: Path
) -> None:
    arrived = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"x"
        arrived.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(uploads.store(NewUpload(), stalled()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lying_in(tmp_path / "files") == []


async def test_a_declared_length_over_the_limit_is_refused_before_a_byte(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep, uploads: Uploads
) -> None:
    body = stream(b"x")
    with pytest.raises(TooLarge):
        await Uploads(store, catalogue, rows, upkeep, max_size=10).store(NewUpload(length=11), body)
    assert await anext(body) == b"x"


async def test_nothing_to_store_is_malformed(uploads: Uploads) -> None:
    async def nothing() -> AsyncIterator[tuple[NewUpload, Chunks]]:
        for _ in range(0):
            yield NewUpload(), stream()

    with pytest.raises(Malformed):
        await uploads.store_all(nothing())


async def test_a_cancelled_publication_goes_through(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep, tmp_path: Path
) -> None:
    """Rolled back, it would leave a row without bytes."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Failing):
        async def add_files(self, files: Sequence[File]) -> None:
            reached.set()
            await go_on.wait()
            await catalogue.add_files(files)

    slow = Slow(catalogue, on="", error=AssertionError())
    uploads = Uploads(store, slow, rows, upkeep)  # type: ignore[arg-type]  # a double of the catalogue
    task = asyncio.create_task(uploads.store(NewUpload(), stream(b"content")))
    await reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    (key,) = lying_in(tmp_path / "files")
    assert (await catalogue.get_file(key)).size == 7


async def test_a_commit_that_fails_with_the_link_made_leaves_no_orphan(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep, tmp_path: Path
) -> None:
    failing = Failing(store, on="commit", error=StoreUnavailable("EIO"), after=True)
    with pytest.raises(StoreUnavailable):
        await Uploads(failing, catalogue, rows, upkeep).store(NewUpload(), stream(b"content"))
    assert lying_in(tmp_path / "files") == []


class Robbed:
    """A store whose stages another machine takes for a dead one's: its lock was lost."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def discard(self, key: str) -> bool:
        await self._store.delete(key)
        await self._store.discard(key)
        return await self._store.discard(key)


async def test_an_upload_whose_bytes_were_settled_away_is_not_acknowledged(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep
) -> None:
    robbed: Any = Robbed(store)
    uploads = Uploads(robbed, catalogue, rows, upkeep)
    with pytest.raises(StoreUnavailable, match="dead process"):
        await uploads.store(NewUpload(), stream(b"x"))
    assert await catalogue.count_files() == (0, 0)
