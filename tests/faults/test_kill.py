"""kill -9 of every process, at random moments under mixed load."""

import asyncio
import random
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

CYCLES = 100 if IS_THOROUGH else 5


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
            service.kill_all()
            await load
    async with place.serving() as service:
        await wait_until_settled(place)
        assert await find_violations(service.url, ledger) == [], f"seed {seed}"
    assert await audit(place) == [], f"seed {seed}"
    assert ledger.uploaded, "nothing was uploaded: the test proved nothing"
    report("kill -9", cycles=CYCLES, uploads=len(ledger.uploaded), deletes=len(ledger.deleted))
