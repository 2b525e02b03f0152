"""kill -9 of every process, at random moments under mixed load."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from tests.faults.harness import (
    IS_THOROUGH,
    Ledger,
    Load,
    Place,
    audit,
    find_violations,
    report,
    wait_until_settled,
)
from tests.processes import ServiceProcess

CYCLES = 100 if IS_THOROUGH else 5


def kill_all(service: ServiceProcess) -> None:
    """Kill the service and its workers, all at once."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    pids = [service.process.pid, *map(int, children.read_text().split())]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    service.process.wait()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_nothing_acknowledged_is_lost_by_kill_9(
    database_url: str, folder: Path, workers: str, seed: int
) -> None:
    place, ledger = Place(folder, database_url), Ledger()
    chance = random.Random(seed)
    for cycle in range(CYCLES):
        async with place.serving("--workers", workers) as service:
            load = asyncio.create_task(Load(service.url, ledger, seed=seed + cycle).run())
            await asyncio.sleep(chance.uniform(0.01, 0.7))
            kill_all(service)
            await load
    async with place.serving() as service:
        await wait_until_settled(place)
        assert await find_violations(service.url, ledger) == [], f"seed {seed}"
    assert await audit(place) == [], f"seed {seed}"
    assert ledger.uploaded, "nothing was uploaded: the test proved nothing"
    report("kill -9", cycles=CYCLES, uploads=len(ledger.uploaded), deletes=len(ledger.deleted))
