import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from file_service.blobs import folder as folders
from file_service.blobs.local import LocalStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core import upkeep as module
from file_service.core.files import Files
from file_service.core.upkeep import Settled, Upkeep
from file_service.core.uploads import Uploads
from file_service.errors import CatalogueUnavailable, FileNotFound, OutcomeUnknown, StoreUnavailable
from file_service.models import File, NewUpload
from tests.catalogue.test_queries import make_file
from tests.core.test_uploads import lying_in, stream
from tests.doubles import Failing

AT_ONCE = timedelta(0)


@pytest.fixture
async def dead(folder: Path) -> AsyncIterator[LocalStore]:
    """Another process's store: what it holds is let go when it is closed, as the kernel does."""
    other = LocalStore(folder, chunk=1024, identity=folders.prepare(folder))
    yield other
    await other.close()


async def stage(store: LocalStore, *, is_committed: bool = False) -> str:
    """Stage an upload, up to its link if told, as far as a crash lets it come."""
    key = str(uuid4())
    await store.append(key, 0, stream(b"content"))
    if is_committed:
        await store.commit(key)
    return key


@pytest.mark.parametrize("is_committed", [False, True])
async def test_an_upload_without_a_row_is_rolled_back(
    dead: LocalStore, upkeep: Upkeep, catalogue: Catalogue, folder: Path, is_committed: bool
) -> None:
    key = await stage(dead, is_committed=is_committed)
    await dead.release(key)
    assert await upkeep.settle() == Settled(rolled_back=1)
    assert lying_in(folder) == []
    with pytest.raises(FileNotFound):
        await catalogue.get_file(key)
    assert await upkeep.settle() == Settled()


async def test_an_upload_whose_row_is_there_is_kept(
    dead: LocalStore,
    store: LocalStore,
    upkeep: Upkeep,
    catalogue: Catalogue,
    rows: UploadRows,
    folder: Path,
) -> None:
    key = await stage(dead, is_committed=True)
    await catalogue.add_files([make_file(id=key, size=7)])
    await dead.release(key)
    assert await upkeep.settle() == Settled(kept=1)
    assert lying_in(folder) == [key]
    file = await catalogue.get_file(key)
    assert [chunk async for chunk in Files(store, catalogue, rows).read(file)] == [b"content"]


async def test_a_living_upload_is_not_touched(
    dead: LocalStore, upkeep: Upkeep, folder: Path
) -> None:
    key = await stage(dead, is_committed=True)
    assert await upkeep.settle() == Settled()
    assert lying_in(folder) == [key, key]


async def test_a_fenced_upload_can_never_become_a_file(
    dead: LocalStore, upkeep: Upkeep, catalogue: Catalogue
) -> None:
    key = await stage(dead, is_committed=True)
    await dead.release(key)
    await upkeep.settle()
    with pytest.raises(IntegrityError):
        await catalogue.add_files([make_file(id=key)])
    with pytest.raises(FileNotFound):
        await catalogue.get_file(key)
    assert await catalogue.find_known([key]) == set()


async def test_settling_goes_on_where_it_was_interrupted(
    dead: LocalStore,
    store: LocalStore,
    upkeep: Upkeep,
    catalogue: Catalogue,
    rows: UploadRows,
    folder: Path,
) -> None:
    """Between fence and removal the fence is there already: it must not pass for a file."""
    key = await stage(dead, is_committed=True)
    await dead.release(key)
    stuck = Failing(store, on="delete", error=StoreUnavailable("broken"))
    assert (await Upkeep(stuck, catalogue, rows).settle()).failed == 1
    assert lying_in(folder) == [key, key]
    assert await upkeep.settle() == Settled(rolled_back=1)
    assert lying_in(folder) == []


async def test_one_bad_entry_is_passed_over(dead: LocalStore, upkeep: Upkeep, folder: Path) -> None:
    (folder / "staging" / "no id").write_text("?")
    (folder / "staging" / str(uuid4())).mkdir()
    key = await stage(dead)
    await dead.release(key)
    settled = await upkeep.settle()
    assert settled.rolled_back == 1
    assert not (folder / "staging" / key).exists()
    assert (folder / "staging" / "no id").exists()


async def test_without_a_catalogue_nothing_is_settled_on_a_guess(
    dead: LocalStore, store: LocalStore, catalogue: Catalogue, rows: UploadRows, folder: Path
) -> None:
    key = await stage(dead, is_committed=True)
    await dead.release(key)
    away = Failing(catalogue, on="fence", error=CatalogueUnavailable("away"))
    settled = await Upkeep(store, away, rows).settle()  # type: ignore[arg-type]  # a double
    assert settled.failed >= 1
    assert lying_in(folder) == [key, key]


async def test_settling_from_several_sides_at_once_settles_once(
    dead: LocalStore, store: LocalStore, catalogue: Catalogue, rows: UploadRows, folder: Path
) -> None:
    for number in range(20):
        key = await stage(dead, is_committed=True)
        if number % 2:
            await catalogue.add_files([make_file(id=key, size=7)])
        await dead.release(key)
    rounds = await asyncio.gather(
        *(Upkeep(each, catalogue, rows).settle() for each in (store, dead) for _ in range(3))
    )
    assert sum(each.kept for each in rounds) == 10
    assert sum(each.rolled_back for each in rounds) == 10
    assert sum(each.failed for each in rounds) == 0
    assert len(lying_in(folder)) == 10


@pytest.mark.parametrize("is_known", [False, True])
async def test_an_unknown_outcome_is_settled_by_the_upkeep(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    upkeep: Upkeep,
    folder: Path,
    is_known: bool,
) -> None:
    lost = Failing(
        catalogue, on="add_files", error=OutcomeUnknown(["id"], "no answer"), after=is_known
    )
    uploads = Uploads(store, lost, rows, upkeep)  # type: ignore[arg-type]  # a double of the catalogue
    with pytest.raises(OutcomeUnknown):
        await uploads.store(NewUpload(), stream(b"content"))
    running = asyncio.create_task(upkeep.run())
    async with asyncio.timeout(10):
        while any((folder / "staging").iterdir()):
            await asyncio.sleep(0.01)
    upkeep.stop()
    await running
    assert len(lying_in(folder)) == (1 if is_known else 0)


async def test_fences_are_dropped_when_they_have_served(
    dead: LocalStore, upkeep: Upkeep, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await stage(dead)
    await dead.release(key)
    await upkeep.settle()
    assert await catalogue.drop_fences(datetime.now(UTC) - module.FENCE_AGE) == 0
    monkeypatch.setattr(module, "FENCE_AGE", timedelta(0))
    await upkeep.settle()
    assert await catalogue.drop_fences(datetime.now(UTC)) == 0


async def make_orphan(store: LocalStore) -> str:
    key = await stage(store, is_committed=True)
    await store.discard(key)
    return key


async def test_gc_removes_blobs_that_no_row_knows(
    store: LocalStore, uploads: Uploads, upkeep: Upkeep, folder: Path
) -> None:
    file = await uploads.store(NewUpload(), stream(b"content"))
    orphan = await make_orphan(store)
    collected = await upkeep.collect(older_than=AT_ONCE, is_dry_run=False)
    assert (collected.blobs, collected.orphans, collected.bytes) == (2, [orphan], 7)
    assert collected.is_clean
    assert lying_in(folder) == [file.id]


async def test_gc_in_a_dry_run_removes_nothing(
    store: LocalStore, upkeep: Upkeep, dead: LocalStore, folder: Path
) -> None:
    orphan = await make_orphan(store)
    staged = await stage(dead)
    await dead.release(staged)
    collected = await upkeep.collect(older_than=AT_ONCE, is_dry_run=True)
    assert collected.orphans == [orphan]
    assert sorted(lying_in(folder)) == sorted([orphan, staged])


async def test_gc_leaves_alone_what_is_young_or_still_an_upload(
    store: LocalStore, upkeep: Upkeep, dead: LocalStore, folder: Path
) -> None:
    orphan = await make_orphan(store)
    collected = await upkeep.collect(older_than=timedelta(hours=1), is_dry_run=False)
    assert collected.orphans == []
    living = await stage(dead, is_committed=True)
    collected = await upkeep.collect(older_than=AT_ONCE, is_dry_run=False)
    assert collected.orphans == [orphan]
    assert lying_in(folder) == [living, living]


async def test_gc_does_not_sweep_a_store_empty_by_a_wrong_catalogue(
    store: LocalStore, upkeep: Upkeep, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEW_ORPHANS", 3)
    for _ in range(4):
        await make_orphan(store)
    collected = await upkeep.collect(older_than=AT_ONCE, is_dry_run=False)
    assert collected.is_refused
    assert not collected.is_clean
    assert len(lying_in(folder)) == 4
    collected = await upkeep.collect(older_than=AT_ONCE, is_dry_run=False, is_all=True)
    assert collected.is_clean
    assert lying_in(folder) == []


async def test_gc_says_when_it_could_not_remove(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    await make_orphan(store)
    stuck = Failing(store, on="delete", error=StoreUnavailable("read-only"))
    collected = await Upkeep(stuck, catalogue, rows).collect(
        older_than=AT_ONCE, is_dry_run=False, is_all=True
    )
    assert collected.settled.failed == 1
    assert not collected.is_clean


def path_of(folder: Path, file: File) -> Path:
    return folder / "blobs" / file.id[:2] / file.id


async def test_scrub_of_a_sound_store_is_clean(uploads: Uploads, upkeep: Upkeep) -> None:
    for size in (0, 1, 300_000):
        await uploads.store(NewUpload(), stream(b"x" * size))
    seen: list[int] = []
    scrubbed = await upkeep.scrub(rate=None, is_quarantining=True, on_progress=seen.append)
    assert scrubbed.is_clean
    assert (scrubbed.files, scrubbed.bytes, sum(seen)) == (3, 300_001, 300_001)


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "symlink", "fifo", "gone"])
async def test_scrub_finds_every_damage(
    uploads: Uploads, upkeep: Upkeep, folder: Path, damage: str
) -> None:
    await uploads.store(NewUpload(), stream(b"sound"))
    file = await uploads.store(NewUpload(), stream(b"content"))
    path = path_of(folder, file)
    match damage:
        case "flipped":
            path.write_bytes(b"contenu")
        case "short":
            os.truncate(path, 3)
        case "long":
            path.write_bytes(b"content and more")
        case _:
            away = path.rename(folder / "away")
    match damage:
        case "symlink":
            path.symlink_to(away)
        case "fifo":
            os.mkfifo(path)
    scrubbed = await upkeep.scrub(rate=None, is_quarantining=False)
    is_missing = damage in {"symlink", "fifo", "gone"}
    assert scrubbed.missing == ([file.id] if is_missing else [])
    assert scrubbed.corrupt == ([] if is_missing else [file.id])
    assert not scrubbed.is_clean


async def test_scrub_moves_corrupt_blobs_aside_only_when_told(
    uploads: Uploads, upkeep: Upkeep, folder: Path
) -> None:
    file = await uploads.store(NewUpload(), stream(b"content"))
    path_of(folder, file).write_bytes(b"contenu")
    await upkeep.scrub(rate=None, is_quarantining=False)
    assert path_of(folder, file).exists()
    scrubbed = await upkeep.scrub(rate=None, is_quarantining=True)
    assert scrubbed.quarantined == [file.id]
    assert not path_of(folder, file).exists()
    assert (folder / "quarantine" / f"{file.id}.corrupt").read_bytes() == b"contenu"


async def test_scrub_finds_orphans(store: LocalStore, upkeep: Upkeep) -> None:
    orphan = await make_orphan(store)
    scrubbed = await upkeep.scrub(rate=None, is_quarantining=False)
    assert scrubbed.orphan == [orphan]
    assert not scrubbed.is_clean


async def test_a_file_deleted_while_it_is_scrubbed_is_not_missing(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, uploads: Uploads
) -> None:
    file = await uploads.store(NewUpload(), stream(b"content"))

    class Deleting(Failing):
        async def get_size(self, key: str) -> int:
            await Files(store, catalogue, rows).delete(key)
            return await store.get_size(key)

    deleting = Deleting(store, on="", error=AssertionError())
    scrubbed = await Upkeep(deleting, catalogue, rows).scrub(rate=None, is_quarantining=False)
    assert scrubbed.is_clean
    assert file.id not in scrubbed.missing


async def test_scrub_keeps_to_its_rate(
    uploads: Uploads, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asserted is how long it asks to wait, not how long it takes."""
    await uploads.store(NewUpload(), stream(b"x" * 300_000))
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    await upkeep.scrub(rate=100_000, is_quarantining=False)
    assert 2 < max(waited) <= 3


async def test_upkeep_outlives_an_error_that_nobody_thought_of(
    dead: LocalStore, store: LocalStore, catalogue: Catalogue, rows: UploadRows, folder: Path
) -> None:
    key = await stage(dead)
    await dead.release(key)
    broken = Failing(store, on="tidy", error=RuntimeError("unheard of"))
    upkeep = Upkeep(broken, catalogue, rows)
    running = asyncio.create_task(upkeep.run())
    await asyncio.sleep(0.05)
    broken.repair()
    upkeep.settle_soon()
    async with asyncio.timeout(10):
        while lying_in(folder):
            await asyncio.sleep(0.01)
    upkeep.stop()
    await running


async def test_gc_never_sweeps_everything_there_is(
    store: LocalStore, upkeep: Upkeep, folder: Path
) -> None:
    orphan = await make_orphan(store)
    collected = await upkeep.collect(older_than=AT_ONCE, is_dry_run=False)
    assert collected.is_refused
    assert lying_in(folder) == [orphan]


async def test_what_a_crash_left_of_a_stage_in_the_making_is_tidied_up(
    upkeep: Upkeep, folder: Path
) -> None:
    old, young = folder / "staging/.old", folder / "staging/.young"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    await upkeep.settle()
    assert [path.name for path in (folder / "staging").iterdir()] == [".young"]
