"""A service whose disk can lose its power, and everything that has to come back after that."""

import asyncio
import random
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.faults.disks import NOTHING_FLUSHED, Kind, mounted_image, power_cut, remount
from tests.faults.harness import Place
from tests.faults.own_postgres import OwnPostgres
from tests.faults.single import Single, kill_9
from tests.processes import ServiceProcess

# Where the catalogue is: SQLite on a disk that keeps its power, so that it hides nothing of what
# the blobs' disk forgets; SQLite on the same disk; PostgreSQL on the same disk.
Where = Literal["other", "same", "postgresql"]

SIZE_MIB = 1024  # the image is sparse


@dataclass
class Machine:
    """A store on a disk of its own, and maybe its catalogue; the ledger is elsewhere."""

    disk: Path
    single: Single
    postgres: OwnPostgres | None = None
    cuts: int = 0
    felt: int = 0  # cuts that are known to have cost what was not synced

    @asynccontextmanager
    async def serving(self, **variables: str) -> AsyncIterator[ServiceProcess]:
        """Run the service, once it was seen that every promise was kept until now."""
        async with self.single.place.serving(**variables) as service:
            assert await self.single.find_violations(service.url) == [], f"{self.cuts} cuts"
            yield service

    async def cut(self, service: ServiceProcess | None, flags: int = NOTHING_FLUSHED) -> None:
        """Take the power away, at once; when it is back, nothing runs but the database."""
        canary = self.disk / f"canary-{self.cuts}"
        canary.touch()
        power_cut(self.disk, flags)
        self.cuts += 1
        if service is not None:
            await kill_9(service)
        await asyncio.to_thread(self._come_back)
        self.felt += not canary.exists()

    def _come_back(self) -> None:
        if self.postgres is not None:
            self.postgres.close()
        remount(self.disk)
        if self.postgres is not None:
            (self.postgres.data / "postmaster.pid").unlink(missing_ok=True)
            self.postgres.start()

    def age(self) -> None:
        """Have everything on disk by now, as after half a minute in which nothing happened."""
        subprocess.run(["sync", "--file-system", str(self.disk)], check=True)

    async def check(self) -> None:
        """See a last time that every promise was kept."""
        async with self.serving():
            pass
        assert await self.single.audit() == [], f"{self.cuts} cuts"
        assert self.felt, "what was not synced survived every cut: the test proved nothing"


@asynccontextmanager
async def made_machine(kind: Kind, where: Where, seed: int) -> AsyncIterator[Machine]:
    """Make a machine with a new, empty store; nothing is left of it."""
    # Not below pytest's folder: that is closed to the user that PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="file-service-machine-") as name:
        root = Path(name)
        root.chmod(0o755)
        with mounted_image(root, kind, SIZE_MIB) as disk:
            (disk / "files").mkdir()
            async with _made_catalogue(root, disk, where) as (url, postgres):
                # A folder that the operator made a while ago.
                await asyncio.to_thread(remount, disk)
                if postgres is not None:
                    await asyncio.to_thread(postgres.start)
                single = Single(Place(disk / "files", url), random.Random(seed))
                yield Machine(disk, single, postgres)


@asynccontextmanager
async def _made_catalogue(
    root: Path, disk: Path, where: Where
) -> AsyncIterator[tuple[str, OwnPostgres | None]]:
    if where != "postgresql":
        # The service makes it at its first start.
        path = (disk if where == "same" else root) / "catalogue.db"
        yield f"sqlite:///{path}", None
        return
    folder = disk / "postgres"
    folder.mkdir(mode=0o700)
    postgres = OwnPostgres(folder)
    try:
        await asyncio.to_thread(postgres.initialise)
        url = postgres.url(await asyncio.to_thread(postgres.make_database))
        await asyncio.to_thread(postgres.stop)
        yield url, postgres
    finally:
        await asyncio.to_thread(postgres.close)
