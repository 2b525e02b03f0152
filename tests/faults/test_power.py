"""Power cuts: the disk keeps what was synced and forgets the rest, on ext4 and on XFS."""

import asyncio
import itertools

import pytest

from tests.faults.disks import LOG_FLUSHED, NOTHING_FLUSHED, Kind
from tests.faults.harness import IS_THOROUGH, Load, report
from tests.faults.machine import Machine, Where, made_machine
from tests.faults.single import SIZE, SMALL, killed_start
from tests.faults.steps import IS_SUPPORTED, killing

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("as_root")]
tracing = pytest.mark.skipif(not IS_SUPPORTED, reason="the tracer knows x86-64 only")
thorough = pytest.mark.skipif(not IS_THOROUGH, reason="make faults runs it")

ROUNDS = 4 if IS_THOROUGH else 1
KINDS: list[Kind] = ["ext4", "xfs"] if IS_THOROUGH else ["ext4"]
WHERES: list[Where] = ["other", "same", "postgresql"] if IS_THOROUGH else ["other", "same"]
WAYS = ["a raw upload", "a small upload", "a form of two", "a delete"]
MOST_STEPS = 200

on_every_disk = pytest.mark.parametrize("kind", KINDS)
with_every_catalogue = pytest.mark.parametrize("where", WHERES)


async def cut_under_load(machine: Machine, seed: int) -> None:
    """Cut at a moment when much is going on."""
    single = machine.single
    async with machine.serving() as service:
        load = Load(service.url, single.ledger, seed=seed, largest=100_000)
        single.is_alone = False
        running = asyncio.create_task(load.run(seconds=0.8))
        await asyncio.sleep(single.chance.uniform(0.02, 0.7))
        promised = len(single.ledger.unexpected)
        await machine.cut(service, single.chance.choice([NOTHING_FLUSHED, LOG_FLUSHED]))
        await running
        # Whatever the dying service said in its last milliseconds, without a disk.
        del single.ledger.unexpected[promised:]
    async with machine.serving():
        single.is_alone = True


async def cut_after_an_upload(machine: Machine) -> None:
    """Cut right after 201."""
    async with machine.serving() as service:
        assert await machine.single.upload(service.url)
        await machine.cut(service)


async def cut_after_a_delete(machine: Machine) -> None:
    """Cut right after 204."""
    async with machine.serving() as service:
        key = await machine.single.upload(service.url)
        if machine.single.chance.random() < 0.5:
            machine.age()
        await machine.single.delete(service.url, key)
        assert key in machine.single.ledger.deleted
        await machine.cut(service)


async def cut_at_step(machine: Machine, what: str, at: int) -> str | None:
    """Kill the service before a step of a request and cut; return which, None after the last."""
    single = machine.single
    async with machine.serving() as service:
        key = await single.upload(service.url) if what == "a delete" else ""
        if single.chance.random() < 0.5:
            machine.age()
        async with killing(service.process.pid, at=at) as steps:
            if key:
                await single.delete(service.url, key)
            else:
                size = SMALL if what == "a small upload" else SIZE
                parts = 2 if what == "a form of two" else 0
                await single.upload(service.url, parts=parts, size=size)
        await machine.cut(service, single.chance.choice([NOTHING_FLUSHED, LOG_FLUSHED]))
    return steps.last if steps.has_killed else None


@tracing
@on_every_disk
@with_every_catalogue
async def test_nothing_acknowledged_is_lost_by_a_power_cut(
    kind: Kind, where: Where, seed: int
) -> None:
    async with made_machine(kind, where, seed) as machine:
        for number in range(ROUNDS):
            await cut_after_an_upload(machine)
            await cut_after_a_delete(machine)
            what, at = machine.single.chance.choice(WAYS), machine.single.chance.randint(1, 20)
            await cut_at_step(machine, what, at)
            await cut_under_load(machine, seed + number)
        await machine.check()
        tell(f"power cut, {kind}, {where}", machine)


@tracing
@thorough
@on_every_disk
@with_every_catalogue
@pytest.mark.parametrize("what", WAYS)
async def test_a_request_cut_at_any_step_has_happened_or_has_not(
    kind: Kind, where: Where, what: str, seed: int
) -> None:
    async with made_machine(kind, where, seed) as machine:
        for at in itertools.count(1):
            if await cut_at_step(machine, what, at) is None:
                break
            assert at < MOST_STEPS
        await machine.check()
        tell(f"power cut at each step of {what}, {kind}, {where}", machine)


@on_every_disk
@with_every_catalogue
async def test_a_store_just_made_is_still_the_same_after_a_power_cut(
    kind: Kind, where: Where, seed: int
) -> None:
    async with made_machine(kind, where, seed) as machine:
        async with machine.serving() as service:
            await machine.cut(service)
        await cut_after_an_upload(machine)
        await machine.check()
        tell(f"power cut of a new store, {kind}, {where}", machine)


@tracing
@on_every_disk
@with_every_catalogue
@pytest.mark.parametrize("at", [1, 2], ids=["folders", "identity"])
async def test_a_store_half_made_is_made_whole_before_it_is_relied_on(
    kind: Kind, where: Where, at: int, seed: int
) -> None:
    """The first start dies before it has synced; the second one must not take that for granted."""
    async with made_machine(kind, where, seed) as machine:
        machine.age()
        steps = await killed_start(machine.single.place, at, r"^fsync .*/files$")
        assert steps.has_killed, steps.taken
        async with machine.serving() as service:
            await machine.cut(service)
        await cut_after_an_upload(machine)
        await machine.check()
        tell(f"power cut of a store half made, {kind}, {where}", machine)


def tell(fault: str, machine: Machine) -> None:
    ledger = machine.single.ledger
    assert ledger.uploaded, "nothing was uploaded: the test proved nothing"
    report(fault, cuts=machine.cuts, files=len(ledger.uploaded), deletes=len(ledger.deleted))
