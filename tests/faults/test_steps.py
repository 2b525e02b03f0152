"""kill -9 before every single step of an upload, of a delete, and of a recovery."""

import copy
import itertools
import random
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.harness import IS_THOROUGH, Place, report
from tests.faults.single import SIZE, SMALL, Single, killed_gc, wait_for_death
from tests.faults.steps import IS_SUPPORTED, Steps, killing
from tests.processes import ServiceProcess

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not IS_SUPPORTED, reason="the tracer knows x86-64 only"),
]

NEVER = 10**9
MOST_STEPS = 200  # a service that never gets through its request is not tested
SAMPLE = 2

# name → how many files one form has, 0 for a raw body, and how large they are
WAYS = {"a raw upload": (0, SIZE), "a small upload": (0, SMALL), "a form of two": (2, SIZE)}


async def request_once(
    single: Single, service: ServiceProcess, what: str, at: int, match: str = ""
) -> Steps:
    """Send one request and kill the service before its step number `at`."""
    key = await single.upload(service.url) if what == "a delete" else ""
    async with killing(service.process.pid, at=at, match=match) as steps:
        if key:
            await single.delete(service.url, key)
        else:
            parts, size = WAYS[what]
            await single.upload(service.url, parts=parts, size=size)
    if steps.has_killed:
        await wait_for_death(service)
    return steps


async def kill_at_each(single: Single, what: str, points: Iterable[int], killed: list[str]) -> None:
    """Kill a service at each of the points, look at what its successor makes of it."""
    for at in points:
        async with single.place.serving() as service:
            assert await single.find_violations(service.url) == [], killed
            steps = await request_once(single, service, what, at)
        if steps.has_killed:
            killed.append(steps.last)
        elif IS_THOROUGH:
            return  # it got through: there are no more steps
        assert at < MOST_STEPS


async def choose_points(single: Single, what: str) -> Iterable[int]:
    """All steps, one after the other until a request gets through; or a sample of them."""
    if IS_THOROUGH:
        return itertools.count(1)
    async with single.place.serving() as service:
        await request_once(single, service, what, NEVER)  # the first one has some steps more
        steps = await request_once(single, service, what, NEVER)
    return sorted(single.chance.sample(range(1, len(steps.taken) + 1), SAMPLE))


@pytest.mark.parametrize(
    "what", [*WAYS, "a delete"] if IS_THOROUGH else ["a raw upload", "a small upload", "a delete"]
)
async def test_a_request_that_dies_at_any_step_has_happened_or_has_not(
    database_url: str, folder: Path, what: str, seed: int
) -> None:
    single = Single(Place(folder, database_url), random.Random(seed))
    killed: list[str] = []
    await kill_at_each(single, what, await choose_points(single, what), killed)
    async with single.place.serving() as service:
        assert await single.find_violations(service.url) == [], f"seed {seed}, {killed}"
    assert await single.audit() == [], f"seed {seed}, {killed}"
    assert len(killed) >= (10 if IS_THOROUGH else 1), killed
    ledger = single.ledger
    report(
        f"kill -9 at a step of {what}",
        kills=len(killed),
        files=len(ledger.uploaded),
        deletes=len(ledger.deleted),
    )


async def leave_a_mess(single: Single) -> None:
    """Leave what needs recovery: uploads without rows, a stage of a file, a delete half done."""
    place = single.place
    async with place.serving() as service:
        kept = await single.upload(service.url)
        deleted = await single.upload(service.url)
        steps = await request_once(single, service, "a form of two", 1, match=r"^pwrite64 .*-wal$")
    assert steps.has_killed
    (place.folder / "staging" / kept).hardlink_to(place.folder / "blobs" / kept[:2] / kept)
    with closing(sqlite3.connect(catalogue_of(place), isolation_level=None)) as catalogue:
        catalogue.execute("DELETE FROM file WHERE id = ?", (deleted,))
        catalogue.execute(
            "INSERT INTO removal VALUES (?, '2026-01-01 00:00:00.000000')", (deleted,)
        )
    single.ledger.deleted.add(deleted)
    assert len(place.names("staging")) == 3


async def test_a_recovery_that_dies_at_any_step_is_finished_by_the_next(
    tmp_path: Path, sqlite_template: Path, seed: int
) -> None:
    single = Single(make_place(tmp_path / "mess", sqlite_template), random.Random(seed))
    await leave_a_mess(single)
    kills = 0
    for at in await choose_deaths(single):
        place = copy_place(single.place, tmp_path / f"killed-{at}")
        steps = await killed_gc(place, at)
        later = Single(place, single.chance, copy.deepcopy(single.ledger))
        async with place.serving() as service:
            found = await later.find_violations(service.url)
        assert found + await later.audit() == [], f"seed {seed}, {at}: {steps.last}"
        assert sorted(later.ledger.uploaded) == sorted(single.ledger.uploaded), (
            "the form came alive"
        )
        if not steps.has_killed:
            break
        kills += 1
    assert kills >= (10 if IS_THOROUGH else SAMPLE)
    report("kill -9 at a step of a recovery", kills=kills)


async def choose_deaths(single: Single) -> Iterable[int]:
    if IS_THOROUGH:
        return itertools.count(1)
    place = copy_place(single.place, single.place.folder.parent / "survivor")
    steps = await killed_gc(place, NEVER)
    counted = [step for step in steps.taken if str(place.folder.parent) in step]
    return sorted(single.chance.sample(range(1, len(counted) + 1), SAMPLE))


def make_place(root: Path, catalogue: Path) -> Place:
    (root / "files").mkdir(parents=True)
    shutil.copy(catalogue, root / "catalogue.db")
    return Place(root / "files", f"sqlite:///{root}/catalogue.db")


def copy_place(place: Place, root: Path) -> Place:
    """What a disk looks like after a crash: everything but the memory that SQLite shares."""
    root.mkdir()
    shutil.copytree(place.folder, root / "files")
    for path in place.folder.parent.glob("catalogue.db*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, root)
    return Place(root / "files", f"sqlite:///{root}/catalogue.db")


def catalogue_of(place: Place) -> Path:
    return Path(place.database_url.removeprefix("sqlite:///"))
