"""The tests of faults are tested: of a service with one promise taken out they must find fault."""

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from file_service.catalogue.tables import file
from tests.faults.disks import Kind
from tests.faults.harness import IS_THOROUGH, TIMEOUT, Place, report
from tests.faults.machine import Machine, Where, made_machine
from tests.faults.mutants import MUTANTS, Mutant, copy_package
from tests.faults.single import SIZE, SMALL, Single, kill_9, killed_gc, killed_start, wait_for_death
from tests.faults.steps import IS_SUPPORTED, killing
from tests.faults.test_steps import leave_a_mess, request_once
from tests.processes import ServiceProcess, service_environment

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("as_root"),
    pytest.mark.skipif(not IS_SUPPORTED, reason="the tracer knows x86-64 only"),
]

KINDS: list[Kind] = ["ext4", "xfs"] if IS_THOROUGH else ["ext4"]

# So long a recovery may take that should take none.
PATIENCE = 5

# The first write of a transaction.
ROW = r"^pwrite64 .*-wal$"

# A disk that syncs by itself just before its power is cut hides a mutant.
TRIES = 3


@dataclass(frozen=True)
class Case:
    """What a scenario is played with: which service, on which disk, in which folder."""

    variables: dict[str, str]
    kind: Kind
    root: Path
    seed: int

    def single(self, name: str = "files", url: str = "") -> Single:
        """A client, and an empty folder for the service; it makes its catalogue by itself."""
        folder = self.root / name
        folder.mkdir(parents=True)
        url = url or f"sqlite:///{self.root}/{name}.db"
        return Single(Place(folder, url), random.Random(self.seed))

    async def judge(self, single: Single) -> list[str]:
        """Start the service again and look for every broken promise."""
        try:
            async with single.place.serving(**self.variables) as service:
                found = await single.find_violations(service.url, seconds=PATIENCE)
        except AssertionError as error:
            found = [f"the service does not start: {error}"]
        return found + await single.audit()

    @asynccontextmanager
    async def powered(self, where: Where) -> AsyncIterator[tuple[Machine, ServiceProcess]]:
        """A service on a disk whose power can be cut."""
        async with (
            made_machine(self.kind, where, self.seed) as machine,
            machine.serving(**self.variables) as service,
        ):
            yield machine, service


Scenario = Callable[[Case], Awaitable[list[str]]]


# ── power cuts ──


def power_after_upload(where: Where, size: int = SIZE) -> Scenario:
    async def play(case: Case) -> list[str]:
        async with case.powered(where) as (machine, service):
            assert await machine.single.upload(service.url, size=size)
            await machine.cut(service)
            return await case.judge(machine.single)

    return play


async def power_after_delete(case: Case) -> list[str]:
    async with case.powered("other") as (machine, service):
        key = await machine.single.upload(service.url)
        machine.age()  # else the stage is back after the cut, and recovery removes the blob
        await machine.single.delete(service.url, key)
        assert key in machine.single.ledger.deleted
        await machine.cut(service)
        return await case.judge(machine.single)


async def power_after_start(case: Case) -> list[str]:
    async with case.powered("other") as (machine, service):
        await machine.cut(service)
        return await case.judge(machine.single)


async def power_after_claim(case: Case) -> list[str]:
    """The catalogue has taken the new folder for its own, and nothing more was done."""
    async with made_machine(case.kind, "other", case.seed) as machine:
        machine.age()
        single = machine.single
        steps = await killed_start(single.place, 2, r"^fsync .*/blobs$", **case.variables)
        assert steps.has_killed, steps.taken
        await machine.cut(None)
        return await case.judge(single)


async def power_after_recovery(case: Case) -> list[str]:
    """One process takes the blob away and dies, another one forgets the note, then the cut."""
    async with case.powered("other") as (machine, service):
        single = machine.single
        key = await single.upload(service.url)
        machine.age()
        async with killing(service.process.pid, at=1, match=r"^fsync .*/blobs/") as steps:
            await single.delete(service.url, key)
        assert steps.has_killed, steps.taken
        await wait_for_death(service)
        async with machine.serving(**case.variables) as second:
            await machine.cut(second)
        return await case.judge(single)


# ── kills ──


def kill(what: str, match: str, *, at: int = 1, after: str = "") -> Scenario:
    """Kill at a step of a request, `at` of those that match; one like `after` must precede it."""

    async def play(case: Case) -> list[str]:
        single = case.single()
        async with single.place.serving(**case.variables) as service:
            steps = await request_once(single, service, what, at, match)
        assert steps.has_killed, steps.taken
        assert [step for step in steps.taken if re.match(after, step)], steps.taken
        return await case.judge(single)

    return play


async def kill_recovery_at_unlink(case: Case) -> list[str]:
    single = case.single()
    await leave_a_mess(single)
    steps = await killed_gc(single.place, 1, r"^unlink .*/blobs/", **case.variables)
    assert steps.has_killed, steps.taken
    return await case.judge(single)


# ── others at the same store ──


async def gc_beside_upload(case: Case) -> list[str]:
    """Another process settles while a client is still sending."""
    single = case.single()
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        await go_on.wait()
        yield bytes(100_000)

    async with single.place.serving(**case.variables) as service:
        sending = asyncio.create_task(send(service.url, body()))
        while not single.place.names("staging"):
            await asyncio.sleep(0.01)
        await run("gc", single.place, case.variables)
        go_on.set()
        status = await sending
        found = [] if status == 201 else [f"a living upload was ended: {status}"]
    single.is_alone = False
    return found + await case.judge(single)


async def upload_to_another_store(case: Case) -> list[str]:
    """Another volume is mounted where the service's own was."""
    return await _upload_to_another(case, SIZE)


async def small_upload_to_another_store(case: Case) -> list[str]:
    """The same, a moment after an upload that went where it should."""
    return await _upload_to_another(case, SMALL)


async def _upload_to_another(case: Case, size: int) -> list[str]:
    single, other = case.single(), case.single("other")
    async with other.place.serving(**case.variables):
        pass
    async with single.place.serving(**case.variables) as service:
        await single.upload(service.url, size=size)
        single.place.folder.rename(case.root / "away")
        other.place.folder.rename(single.place.folder)
        await single.upload(service.url, size=size)
        single.place.folder.rename(other.place.folder)
        (case.root / "away").rename(single.place.folder)
    return await case.judge(single)


async def delete_without_volume(case: Case) -> list[str]:
    """The volume is unmounted while a file is deleted."""
    single = case.single()
    async with single.place.serving(**case.variables) as service:
        key = await single.upload(service.url)
        single.place.folder.rename(case.root / "away")
        await single.delete(service.url, key)
        (case.root / "away").rename(single.place.folder)
    return await case.judge(single)


async def commit_in_doubt(case: Case) -> list[str]:
    """A row that a lost process sent is committed while its upload is being settled."""
    async with case.powered("postgresql") as (machine, service):
        single, late = machine.single, str(uuid4())
        known = await single.upload(service.url)
        await kill_9(service)
        names = ", ".join(column.name for column in file.c if column.name != "id")
        session = await connect_to(machine)
        try:
            transaction = session.transaction()
            await transaction.start()
            row = f"INSERT INTO file (id, {names}) SELECT $1, {names} FROM file WHERE id = $2"
            await session.execute(row, late, known)
            stage_as(single.place, known, late)
            async with single.place.serving(**case.variables):
                while single.place.names("staging") and not await is_waiting(session):
                    await asyncio.sleep(0.02)
                await transaction.commit()
        finally:
            await session.close()
        single.is_alone = False
        return await case.judge(single)


SCENARIOS: dict[str, Scenario] = {
    "power_after_upload": power_after_upload("other"),
    "power_after_upload_same": power_after_upload("same"),
    "power_after_small_upload": power_after_upload("other", SMALL),
    "power_after_delete": power_after_delete,
    "power_after_start": power_after_start,
    "power_after_claim": power_after_claim,
    "power_after_recovery": power_after_recovery,
    "kill_upload_at_link": kill("a raw upload", r"^link "),
    "kill_upload_at_row": kill("a raw upload", ROW, after=r"(link|rename) .*/blobs/"),
    "kill_small_upload_at_link": kill("a small upload", r"^link "),
    "kill_upload_at_last": kill("a raw upload", r"^unlink .*/staging/"),
    "kill_form_at_second": kill("a form of two", r"^link ", at=2),
    "kill_delete_at_row": kill("a delete", ROW),
    "kill_delete_at_unlink": kill("a delete", r"^unlink .*/blobs/"),
    "kill_recovery_at_unlink": kill_recovery_at_unlink,
    "gc_beside_upload": gc_beside_upload,
    "upload_to_another_store": upload_to_another_store,
    "small_upload_to_another_store": small_upload_to_another_store,
    "delete_without_volume": delete_without_volume,
    "commit_in_doubt": commit_in_doubt,
}


def choose() -> list[Any]:
    """Every mutant that can be seen, on every kind of disk where it is a disk's matter."""
    chosen = [one for one in MUTANTS if not one.unseen and (IS_THOROUGH or one.is_fast)]
    return [
        pytest.param(one, kind, id=f"{one.name.replace(' ', '-')}-{kind}")
        for one in chosen
        for kind in (KINDS if one.scenario.startswith("power") else KINDS[:1])
        if kind in one.kinds
    ]


@pytest.mark.parametrize(("mutant", "kind"), choose())
async def test_a_service_without_one_of_its_promises_is_found_out(
    mutant: Mutant, kind: Kind, tmp_path: Path, seed: int
) -> None:
    variables = mutant.plant(tmp_path / "mutant")
    play, found = SCENARIOS[mutant.scenario], list[str]()
    for attempt in range(TRIES):
        case = Case(variables, kind, tmp_path / str(attempt), seed + attempt)
        found = await play(case)
        if found:
            break
    assert found, f"nobody noticed that {mutant.name}, seed {seed}"
    report(f"mutant on {kind}: {mutant.name}", violations=len(found))
    sys.stderr.write("".join(f"  {one[:300]}\n" for one in found))


@pytest.mark.skipif(not IS_THOROUGH, reason="make faults runs it")
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_service_itself_passes_what_its_mutants_fail(
    scenario: str, tmp_path: Path, seed: int
) -> None:
    variables = copy_package(tmp_path / "copy")
    for kind in KINDS if scenario.startswith("power") else KINDS[:1]:
        found = await SCENARIOS[scenario](Case(variables, kind, tmp_path / kind, seed))
        assert found == [], f"{scenario} on {kind}, seed {seed}"


def test_every_mutant_can_still_be_planted(tmp_path: Path) -> None:
    for number, mutant in enumerate(MUTANTS):
        assert mutant.scenario in SCENARIOS
        mutant.plant(tmp_path / str(number))


async def send(url: str, body: AsyncIterator[bytes]) -> int:
    async with (
        aiohttp.ClientSession(url, timeout=TIMEOUT) as session,
        session.post("/files/", data=body) as response,
    ):
        return response.status


async def run(command: str, place: Place, variables: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "file_service", command, *place.flags,
        env=service_environment(**variables), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0


async def connect_to(machine: Machine) -> asyncpg.Connection:
    assert machine.postgres is not None
    return await machine.postgres.connect(machine.single.place.database_url.rpartition("/")[2])


async def is_waiting(session: asyncpg.Connection) -> bool:
    """Whether somebody waits for what this session has locked."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    return bool(await session.fetchval(query))


def stage_as(place: Place, known: str, late: str) -> None:
    """Have the bytes of a file once more, as an upload of this id has them before its row."""
    blob = place.folder / "blobs" / late[:2] / late
    blob.parent.mkdir(exist_ok=True)
    (place.folder / "staging" / late).hardlink_to(place.folder / "blobs" / known[:2] / known)
    blob.hardlink_to(place.folder / "staging" / late)
