"""Upkeep: settle what a crash left, finish deletions, collect garbage, scrub; each reports."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.digests import Digests
from file_service.core.names import is_id
from file_service.errors import BlobMissing, FileNotFound, FileServiceError, StoreUnavailable
from file_service.metrics import Counter
from file_service.models import BlobInfo, File, Upload

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 30.0
BATCH = 500

# So many may be swept without a second thought, whatever their share.
FEW_ORPHANS = 100

# A delayed statement of a lost upload cannot arrive later than this, whatever machine's clock it
# goes by; ids are never reused, and fences are small.
FENCE_AGE = timedelta(days=1)


@dataclass(slots=True)
class Settled:
    """What settling did: files that proved to exist, uploads rolled back, blobs removed."""

    kept: int = 0
    rolled_back: int = 0
    removed: int = 0
    failed: int = 0


@dataclass(slots=True)
class Collected:
    """What gc found: `orphans` are blobs that no row knows; `is_refused` when they are too many."""

    blobs: int = 0
    orphans: list[str] = field(default_factory=list)
    bytes: int = 0
    is_dry_run: bool = False
    is_refused: bool = False
    settled: Settled = field(default_factory=Settled)

    @property
    def is_clean(self) -> bool:
        """Whether everything that was to be done could be done."""
        return self.settled.failed == 0 and not self.is_refused

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


@dataclass(slots=True)
class Scrubbed:
    """What scrub found: keys of files without bytes, of bytes without a file, of changed bytes."""

    files: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    orphan: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every file has its bytes and every blob its file."""
        return not (self.missing or self.orphan or self.corrupt)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


SETTLED = Counter(
    "settled",
    "What a crash or a lost connection left, by what became of it.",
    label="result",
    values=asdict(Settled()),
)


class Upkeep:
    """Puts the store and the catalogue in step; everything it does may be interrupted and rerun."""

    def __init__(self, store: BlobStore, catalogue: Catalogue, rows: UploadRows) -> None:
        self._store = store
        self._catalogue = catalogue
        self._rows = rows
        self._is_wanted = asyncio.Event()
        self._is_stopping = False

    async def run(self) -> None:
        """Settle at start and then again and again, until told to stop."""
        while not self._is_stopping:
            try:
                settled = await self.settle()
            except Exception:
                logger.exception("upkeep failed")  # and goes on: it must outlive whatever it meets
            else:
                if settled != Settled():
                    logger.info("settled", extra=asdict(settled))
                for result, count in asdict(settled).items():
                    SETTLED.add(count, value=result)
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._is_wanted.wait()
            self._is_wanted.clear()

    def stop(self) -> None:
        """Have `run` return once it is done with what is in its hands."""
        self._is_stopping = True
        self._is_wanted.set()

    def settle_soon(self) -> None:
        """Have the next round now: there is an upload whose outcome nobody knows."""
        self._is_wanted.set()

    async def settle(self) -> Settled:
        """Settle every stage that nobody holds, finish noted removals, drop old fences."""
        settled = Settled()
        try:
            await self._store.tidy()
            async for batch in _batched(self._store.stages()):
                if self._is_stopping:
                    return settled
                await self._settle_stages(batch, settled)
            await self._expire_uploads(settled)
            await self._finish_removals(settled)
            await self._catalogue.drop_fences(datetime.now(UTC) - FENCE_AGE)
        except FileServiceError as error:
            settled.failed += 1
            logger.warning("upkeep broke off: %s", error, extra={"cause": repr(error.__cause__)})
        return settled

    async def _settle_stages(self, stages: list[BlobInfo], settled: Settled) -> None:
        """Settle the stages that belong to no upload that is still to be gone on with."""
        keys = [stage.key for stage in stages if is_id(stage.key)]
        living = await self._rows.find_known(keys)
        for stage in stages:
            if stage.key not in living:
                await self._settle_stage(stage, settled)

    async def _expire_uploads(self, settled: Settled) -> None:
        """Have uploads that nobody went on with in time not exist; their bytes go as removals."""
        removed, now = BATCH, datetime.now(UTC)
        while removed == BATCH and not self._is_stopping:
            expired = await self._rows.find_expired(now, BATCH)
            for each in expired:
                if each.is_held:
                    await self._let_go(each, settled)
            removed = await self._rows.remove_expired([each.id for each in expired], now)

    async def _let_go(self, upload: Upload, settled: Settled) -> None:
        """Take away the mark of a holder that is dead: whoever lives has its stage locked."""
        key = upload.id
        try:
            if not await self._store.take_over(key) and await self._store.has_stage(key):
                return
            try:
                await self._rows.let_go(upload)
            finally:
                await self._store.release(key)
        except StoreUnavailable as error:
            settled.failed += 1
            logger.warning("%s, which is over, stays for now: %s", key, error)

    async def _settle_stage(self, stage: BlobInfo, settled: Settled) -> None:
        """Settle one upload that no living process works at; one that cannot be is skipped."""
        key = stage.key
        if not is_id(key):
            logger.warning("there is something in the staging folder that is no upload: %r", key)
            return
        try:
            if not await self._store.take_over(key):
                return
            try:
                if await self._catalogue.fence(key):
                    settled.kept += 1
                else:
                    await self._store.delete(key)
                    settled.rolled_back += 1
                await self._store.discard(key)
            finally:
                await self._store.release(key)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is about this one
            settled.failed += 1
            logger.warning("%s cannot be settled yet: %s", key, error, extra={"cause": repr(error)})
            await self._catalogue.check()  # one bad upload is passed over; a dead database is not

    async def _finish_removals(self, settled: Settled) -> None:
        keys = await self._catalogue.find_removals(BATCH)
        while keys and not self._is_stopping:
            done = [key for key in keys if await self._remove(key, settled)]
            if done:
                await self._catalogue.drop_removals(done)
            keys = await self._catalogue.find_removals(BATCH, after=keys[-1])

    async def _remove(self, key: str, settled: Settled) -> bool:
        try:
            await self._store.delete(key)
            if not await self._drop_stage(key):
                return False
        except FileServiceError as error:
            settled.failed += 1
            logger.warning("the blob of %s cannot be removed yet: %s", key, error)
            return False
        settled.removed += 1
        return True

    async def _drop_stage(self, key: str) -> bool:
        """Drop the stage of an upload that is no more; False where a request still works at it."""
        if await self._store.take_over(key):
            await self._store.discard(key)
        return not await self._store.has_stage(key)

    async def collect(
        self, *, older_than: timedelta, is_dry_run: bool, is_all: bool = False
    ) -> Collected:
        """Remove blobs that no row knows and whose bytes are older than `older_than`.

        When they are all blobs, or more than a tenth of many, the catalogue is probably the wrong
        one: nothing is removed then, unless `is_all`.
        """
        collected = Collected(is_dry_run=is_dry_run)
        if not is_dry_run:
            collected.settled = await self.settle()
        before = datetime.now(UTC) - older_than
        async for batch in _batched(self._store.blobs()):
            collected.blobs += len(batch)
            for orphan in await self._find_orphans(batch):
                if orphan.modified_at <= before:
                    collected.orphans.append(orphan.key)
                    collected.bytes += orphan.size
        count = len(collected.orphans)
        is_too_many = count > max(FEW_ORPHANS, collected.blobs // 10)
        is_everything = 0 < count == collected.blobs
        collected.is_refused = (is_too_many or is_everything) and not is_all
        if not is_dry_run and not collected.is_refused:
            for key in collected.orphans:
                await self._remove(key, collected.settled)
        return collected

    async def _find_orphans(self, blobs: list[BlobInfo]) -> list[BlobInfo]:
        ours = [info for info in blobs if is_id(info.key)]
        # The stage first, the row second: an upload drops its stage only when its row is there.
        unstaged = [info for info in ours if not await self._store.has_stage(info.key)]
        known = await self._catalogue.find_known([info.key for info in unstaged])
        unknown = [info for info in unstaged if info.key not in known]
        # One whose deletion came to its end meanwhile has neither row nor note, and no bytes.
        return [info for info in unknown if await self._store.has_blob(info.key)]

    async def scrub(
        self,
        *,
        rate: int | None,
        is_quarantining: bool,
        on_progress: Callable[[int], object] = lambda _size: None,
    ) -> Scrubbed:
        """Re-read every blob against its digest, at most `rate` bytes a second; find orphans."""
        scrubbed = Scrubbed()
        pace = _Pace(rate)
        async for file in self._catalogue.walk_files():
            scrubbed.files += 1
            scrubbed.bytes += file.size
            await self._scrub_file(file, scrubbed, pace)
            on_progress(file.size)
        if is_quarantining:
            for key in scrubbed.corrupt:
                if await self._store.has_blob(key):  # it may have been deleted since
                    await self._store.quarantine(key, "corrupt")
                    scrubbed.quarantined.append(key)
        async for batch in _batched(self._store.blobs()):
            scrubbed.orphan += [info.key for info in await self._find_orphans(batch)]
        return scrubbed

    async def _scrub_file(self, file: File, scrubbed: Scrubbed, pace: "_Pace") -> None:
        try:
            is_whole = await self._is_whole(file, pace)
        except BlobMissing:
            if await self._is_still_there(file):
                scrubbed.missing.append(file.id)
        else:
            if not is_whole:
                scrubbed.corrupt.append(file.id)

    async def _is_whole(self, file: File, pace: "_Pace") -> bool:
        if await self._store.get_size(file.id) != file.size:
            return False
        digests = Digests()
        async for chunk in digests.follow(self._store.read(file.id)):
            await pace.keep(len(chunk))
        await digests.settle()
        return digests.in_hex()["sha-256"] == file.sha256

    async def _is_still_there(self, file: File) -> bool:
        """Whether the file was not just deleted while we read."""
        try:
            await self._catalogue.get_file(file.id)
        except FileNotFound:
            return False
        return True


class _Pace:
    """Slows a reader down to a number of bytes a second."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._started = time.monotonic()
        self._read = 0

    async def keep(self, size: int) -> None:
        """Wait until `size` bytes more are within the rate."""
        self._read += size
        if self._rate is not None:
            ahead = self._read / self._rate - (time.monotonic() - self._started)
            if ahead > 0:
                await asyncio.sleep(ahead)


async def _batched(infos: AsyncIterator[BlobInfo]) -> AsyncIterator[list[BlobInfo]]:
    batch: list[BlobInfo] = []
    async for info in infos:
        batch.append(info)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
