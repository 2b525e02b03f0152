"""Disks that are full, or have no inodes left; a disk that turns read-only, or dies."""

import asyncio
import ctypes
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.faults.callers import (
    MIB,
    WAYS,
    Caller,
    calling,
    check_refusal,
    check_settled,
    find_leftovers,
    until,
)
from tests.faults.disks import mounted_image, power_cut, remount
from tests.faults.harness import (
    IS_THOROUGH,
    Ledger,
    Load,
    Place,
    find_violations,
    report,
)

pytestmark = pytest.mark.usefixtures("as_root")

# Whether the SQLite catalogue is on the disk in trouble, too.
BESIDE, SQLITE, POSTGRESQL = ("sqlite", True), ("sqlite", False), ("postgresql", False)
FULL = [BESIDE, SQLITE, POSTGRESQL] if IS_THOROUGH else [BESIDE, POSTGRESQL]
CROWDED = [BESIDE, SQLITE, POSTGRESQL] if IS_THOROUGH else [BESIDE]
BROKEN = [SQLITE, POSTGRESQL] if IS_THOROUGH else [SQLITE]

# So long is uploading refused after a disk failed again and again.
FAILURE_SECONDS = 60

_REMOUNT, _READ_ONLY = 32, 1  # MS_REMOUNT, MS_RDONLY


def catalogues(which: list[tuple[str, bool]]) -> pytest.MarkDecorator:
    names = ["beside" if is_beside else dialect for dialect, is_beside in which]
    arguments = ("database_url", "is_beside")
    return pytest.mark.parametrize(arguments, which, ids=names, indirect=["database_url"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of one's own."""
    with mounted_image(tmp_path / "image", "ext4", 16) as mountpoint:
        yield mountpoint


def place_on(disk: Path, database_url: str, is_beside: bool) -> Place:
    """A folder on the disk, and the catalogue where the test wants it."""
    (disk / "files").mkdir()
    if is_beside:
        shutil.move(database_url.partition(":///")[2], disk / "catalogue.db")
        database_url = f"sqlite:///{disk}/catalogue.db"
    return Place(disk / "files", database_url)


async def fill(caller: Caller, size: int, ways: tuple[str, ...] = WAYS) -> int:
    """Upload files until none more fits, whichever way it is sent; return the refusals."""
    refused = 0
    while refused < len(ways):
        answer = await caller.upload(size, ways[refused])
        if answer.status != 201:
            check_refusal(answer, 507, "no-room")
            refused += 1
    return refused


@contextmanager
def filled_by_others(disk: Path) -> Iterator[None]:
    """Somebody else takes the very last byte of the disk."""
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as file:
        for size in (64 * 1024, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        hog.unlink()


@catalogues(FULL)
async def test_a_full_disk_refuses_uploads_and_nothing_else(
    disk: Path, database_url: str, is_beside: bool
) -> None:
    place = place_on(disk, database_url, is_beside)
    async with calling(place) as caller:
        check_refusal(await caller.announce(64 * MIB), 507, "no-room")
        check_refusal(await caller.upload(20 * MIB, "chunked"), 507, "no-room")
        assert await find_leftovers(place, caller) == []
        refused = 2 + await fill(caller, MIB)
        stored = list(caller.ledger.uploaded)
        refused += await fill(caller, 100_000) + await fill(caller, 1, ("chunked", "put"))
        assert await find_leftovers(place, caller) == []
        await caller.until_red("There is no room left")
        for key in stored[:2]:
            assert (await caller.delete(key)).status == 204
            assert (await caller.get(key)).status == 404
        assert (await caller.upload(MIB)).status == 201
        await caller.until_ready()
        await check_settled(place, caller)
    report("full disk", uploads=len(caller.ledger.uploaded), refusals=refused)


@catalogues(CROWDED)
async def test_many_at_once_on_a_disk_that_fills_up_are_whole_or_refused(
    disk: Path, database_url: str, is_beside: bool
) -> None:
    place = place_on(disk, database_url, is_beside)
    async with calling(place) as caller:
        many = [caller.upload(MIB, WAYS[turn % len(WAYS)]) for turn in range(40)]
        answers = await asyncio.gather(*many)
        refused = [answer for answer in answers if answer.status != 201]
        for answer in refused:
            check_refusal(answer, 507, "no-room")
        if len(answers) - len(refused) < 12:  # they stood in each other's way: now there is room
            assert (await caller.upload(MIB)).status == 201
        await check_settled(place, caller)
    assert len(refused) >= 40 - 16
    report("many on a full disk", uploads=len(answers) - len(refused), refusals=len(refused))


@catalogues(CROWDED)
async def test_a_disk_filled_by_others_is_survived(
    disk: Path, database_url: str, is_beside: bool
) -> None:
    place = place_on(disk, database_url, is_beside)
    async with calling(place) as caller:
        for _ in range(4):
            assert (await caller.upload(100_000)).status == 201
        stored = list(caller.ledger.uploaded)
        with filled_by_others(disk):
            await caller.until_red("There is no room left")
            for way in WAYS:
                check_refusal(await caller.upload(MIB, way), 507, "no-room")
            answer = await caller.delete(stored[0])
            if is_beside and answer.status != 204:  # the catalogue has no room either, and says so
                check_refusal(answer, 507, "no-room")
            else:
                assert answer.status == 204
            assert await find_violations(caller.service.url, caller.ledger) == []
        await caller.until_ready()
        assert (await caller.upload(MIB)).status == 201
        assert (await caller.delete(stored[1])).status == 204
        await check_settled(place, caller)
    report("disk filled by others", uploads=len(caller.ledger.uploaded), refusals=len(WAYS))


@asynccontextmanager
async def catalogue_alone_on(disk: Path, folder: Path) -> AsyncIterator[tuple[Place, Caller]]:
    """A service with one file in it, whose SQLite catalogue alone is on the disk."""
    place = Place(folder, f"sqlite:///{disk}/catalogue.db")
    async with calling(place) as caller:
        assert (await caller.upload(100_000)).status == 201
        yield place, caller


async def test_a_full_disk_of_the_catalogue_alone_is_survived(disk: Path, folder: Path) -> None:
    async with catalogue_alone_on(disk, folder) as (place, caller):
        with filled_by_others(disk):  # the catalogue may have some room in its own files
            refused = await fill(caller, 100_000)
            assert await find_violations(caller.service.url, caller.ledger) == []
        await caller.until_ready()
        assert (await caller.upload(100_000)).status == 201
        await check_settled(place, caller)
    report("full disk of the catalogue", uploads=len(caller.ledger.uploaded), refusals=refused)


async def test_a_service_whose_catalogue_has_no_room_is_not_ready(disk: Path, folder: Path) -> None:
    async with catalogue_alone_on(disk, folder) as (_, caller):
        with filled_by_others(disk):
            await fill(caller, 1000)
            await caller.until_red("There is no room left where the catalogue is kept.")
        await caller.until_ready()


@contextmanager
def inodes_taken(disk: Path, spare: int) -> Iterator[None]:
    """Somebody else has so many files on the disk that only so few more can be made."""
    folder = disk / "many"
    folder.mkdir()
    while (left := os.statvfs(disk).f_favail) > spare:
        (folder / str(left)).touch()
    yield
    shutil.rmtree(folder)


@catalogues(CROWDED)
@pytest.mark.parametrize("spare", [0, 1])  # a blob takes two where it is the first of its folder
async def test_without_inodes_uploads_find_no_room(
    tmp_path: Path, database_url: str, is_beside: bool, spare: int
) -> None:
    with mounted_image(tmp_path / "image", "ext4", 16, "-N", "512") as disk:
        place = place_on(disk, database_url, is_beside)
        async with calling(place) as caller:
            for _ in range(2):
                assert (await caller.upload(1000)).status == 201
            with inodes_taken(disk, spare):
                for way in WAYS:
                    check_refusal(await caller.upload(1000, way), 507, "no-room")
                assert await find_leftovers(place, caller) == []
                await caller.until_red("There is no room left")
                assert (await caller.delete(next(iter(caller.ledger.uploaded)))).status == 204
            await caller.until_ready()
            assert (await caller.upload(1000)).status == 201
            await check_settled(place, caller)
    report("no inodes", uploads=len(caller.ledger.uploaded), refusals=len(WAYS))


def set_read_only(mountpoint: Path, is_read_only: bool) -> bool:
    """Remount; False while somebody has a file open for writing there."""
    flags = _REMOUNT | (_READ_ONLY if is_read_only else 0)
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mount(None, os.fsencode(mountpoint), None, flags, None) == 0)


@catalogues(BROKEN)
async def test_a_disk_that_turns_read_only_under_load_still_serves(
    disk: Path, database_url: str, is_beside: bool, seed: int
) -> None:
    place = place_on(disk, database_url, is_beside)
    async with calling(place) as caller:
        for _ in range(3):
            assert (await caller.upload(100_000)).status == 201
        stored = list(caller.ledger.uploaded)
        others = Ledger()
        load = Load(caller.service.url, others, seed=seed, largest=20_000)
        loading = asyncio.create_task(load.run(writers=2, readers=2, seconds=1.5))

        async def turn_read_only() -> bool:
            return bool(others.deleted) and any(
                set_read_only(disk, is_read_only=True) for _ in range(200)
            )

        await until(turn_read_only, "a moment without any open file", seconds=30)
        await caller.until_red("Read-only file system")
        for way in WAYS:
            check_refusal(await caller.upload(1000, way), 503, "store-unavailable")
        check_refusal(await caller.announce(1000), 503, "store-unavailable")
        assert (await caller.get(stored[0])).status == 200
        if (answer := await caller.delete(stored[1])).status != 204:
            check_refusal(answer, 503, "store-unavailable")
        await loading
        assert await find_violations(caller.service.url, caller.ledger) == []
        assert set_read_only(disk, is_read_only=False)
        await caller.until_ready()
        assert (await caller.upload(1000)).status == 201
        caller.ledger.uploaded |= others.uploaded
        caller.ledger.deleted |= others.deleted
        assert others.unexpected == [], f"seed {seed}"
        assert others.doubtful == others.deleted, f"seed {seed}"
        await check_settled(place, caller)
    report("read-only", uploads=len(others.uploaded), deletes=len(others.deleted))


@pytest.mark.timeout(240)
@catalogues(BROKEN)
async def test_a_disk_that_dies_is_never_taken_for_an_empty_one(
    disk: Path, database_url: str, is_beside: bool
) -> None:
    place = place_on(disk, database_url, is_beside)
    async with calling(place) as caller:
        for _ in range(3):
            assert (await caller.upload(100_000)).status == 201
        kept, removed, _ = caller.ledger.uploaded
        power_cut(disk)
        await caller.until_red("Input/output error")
        for way in WAYS:
            check_refusal(await caller.upload(1000, way), 503, "store-unavailable")
        await caller.until_red("failed several times in a minute")
        assert (await caller.delete(removed)).status == 204
        assert (await caller.get(removed)).status == 404
        check_refusal(await caller.get(kept), 500, "blob-missing")
        await asyncio.to_thread(remount, disk)
        assert (await caller.get(kept)).status == 200
        check_refusal(await caller.announce(1000), 503, "store-unavailable")
        if IS_THOROUGH:  # it takes its time until it trusts such a disk again
            await caller.until_ready(seconds=FAILURE_SECONDS + 5)
            assert (await caller.upload(1000)).status == 201
        await check_settled(place, caller)
    report("dead disk", uploads=len(caller.ledger.uploaded), refusals=len(WAYS) + 1)
