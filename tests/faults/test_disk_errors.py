"""Disks that fail, quotas, short transfers, and a process without descriptors."""

import asyncio
import re
import resource
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from file_service.web.downloads import SMALL
from tests.e2e.conftest import descriptors_of
from tests.faults.callers import (
    MIB,
    WAYS,
    Caller,
    calling,
    check_refusal,
    check_settled,
    find_leftovers,
)
from tests.faults.disks import unmount
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
from tests.faults.injection import failing_disk, injected, make_short_transfers
from tests.wire import Wire

# So long is uploading refused after a disk failed again and again.
FAILURE_SECONDS = 60

DATABASES = ["sqlite", "postgresql"] if IS_THOROUGH else ["sqlite"]
on_databases = pytest.mark.parametrize("database_url", DATABASES, indirect=True)


@pytest.fixture(autouse=True)
def _strace(as_root: None, needs: Callable[..., None]) -> None:
    needs("strace")


@pytest.fixture
def place(folder: Path, database_url: str) -> Place:
    return Place(folder, database_url)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What strace writes down."""
    return tmp_path / "strace.log"


def pid_of(caller: Caller) -> int:
    return caller.service.process.pid


def blob_of(place: Place, key: str) -> Path:
    return place.folder / "blobs" / key[:2] / key


@pytest.mark.timeout(180)
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_a_failed_fsync_is_final_and_a_disk_that_fails_again_is_left_alone(
    place: Place, log: Path
) -> None:
    async with calling(place) as caller:
        kept = (await caller.upload(1000)).body.decode()
        with injected(pid_of(caller), log, "fsync,fdatasync:error=EIO"):
            for way in ("chunked", "form", "put"):
                check_refusal(await caller.upload(100_000, way), 503, "store-unavailable")
                assert await find_leftovers(place, caller) == []
        fsyncs = Counter(
            re.findall(r"f(?:data)?sync\(\d+<.*/staging/([0-9a-f-]+)>", log.read_text())
        )
        assert list(fsyncs.values()) == [1, 1, 1], "a stage was synced again, or never"
        await caller.until_red("The blob store's disk failed several times in a minute.")
        check_refusal(await caller.announce(1000), 503, "store-unavailable")
        assert (await caller.get(kept)).status == 200
        if IS_THOROUGH:
            await caller.until_ready(seconds=FAILURE_SECONDS + 5)
            assert (await caller.upload(1000)).status == 201
        await check_settled(place, caller)
    report("EIO on fsync", uploads=len(caller.ledger.uploaded), refusals=4)


# Which calls fail on which paths, and how the upload ends.
STEPS = {
    "fsync of the blob's folder": ("fsync:error=EIO", [f"blobs/{n:02x}" for n in range(256)], 503),
    "link": ("?link,?linkat:error=EIO", [], 503),
    "unlink of the stage": ("?unlink,?unlinkat:error=EIO", [], 201),
    "write": ("pwrite64:error=EIO", [], 503),
    "link, no inode": ("?link,?linkat:error=ENOSPC", [], 507),
}


SAMPLE = ["fsync of the blob's folder", "unlink of the stage", "link, no inode"]


@on_databases
@pytest.mark.parametrize("step", STEPS if IS_THOROUGH else SAMPLE)
async def test_an_upload_that_fails_at_any_step_leaves_nothing(
    place: Place, log: Path, step: str
) -> None:
    fault, names, status = STEPS[step]
    async with calling(place) as caller:
        with injected(pid_of(caller), log, fault, paths=tuple(place.folder / n for n in names)):
            answer = await caller.upload(100_000)
        assert "(INJECTED)" in log.read_text(), "nothing failed: the test proved nothing"
        assert answer.status == status, answer
        await caller.until_ready()
        await check_settled(place, caller)


@on_databases
async def test_an_upload_that_cannot_even_be_rolled_back_is_settled_later(
    place: Place, log: Path
) -> None:
    async with calling(place) as caller:
        faults = ("fsync:error=EIO", "?unlink,?unlinkat:error=EROFS")
        with injected(pid_of(caller), log, *faults):
            check_refusal(await caller.upload(100_000), 503, "store-unavailable")
            kept = len(place.names("staging"))
        assert kept == 1
        await check_settled(place, caller)
    report("EIO on fsync and on the way back", settled=kept)


@on_databases
async def test_a_delete_whose_unlink_fails_holds_and_is_finished_later(
    place: Place, log: Path
) -> None:
    async with calling(place) as caller:
        for _ in range(3):
            assert (await caller.upload(1000)).status == 201
        for key, fault in zip(
            list(caller.ledger.uploaded), ["?unlink,?unlinkat", "fsync"], strict=False
        ):
            with injected(pid_of(caller), log, f"{fault}:error=EIO"):
                assert (await caller.delete(key)).status == 204
                assert (await caller.get(key)).status == 404
            assert key in await place.column("SELECT id FROM removal")
        await caller.until_ready()
        await check_settled(place, caller)
    report("EIO on a delete", deletes=len(caller.ledger.deleted))


@on_databases
async def test_unreadable_bytes_are_a_500_or_a_broken_connection_never_a_short_answer(
    place: Place, log: Path
) -> None:
    async with calling(place) as caller:
        assert (await caller.upload(20 * MIB)).status == 201
        (key,) = caller.ledger.uploaded
        with injected(pid_of(caller), log, "openat:error=EIO", paths=(blob_of(place, key),)):
            check_refusal(await caller.get(key), 500, "blob-missing")
        caller.service.wait_for(f"The blob of {key} cannot be read.", 1)
        for fault in ("sendfile:error=EIO:when=2+", "sendfile:error=EIO:when=3+"):
            with (
                injected(pid_of(caller), log, fault, paths=(blob_of(place, key),)),
                pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)),
            ):
                await caller.get(key)
        caller.service.wait_for(f"download of {key} broke off", 2)
        await caller.until_ready()
        await check_settled(place, caller)
    report("EIO on read", refusals=1, broken=2)


@pytest.mark.timeout(180)
@on_databases
async def test_blocks_that_cannot_be_written_make_no_file(
    tmp_path: Path, database_url: str, needs: Callable[..., None]
) -> None:
    needs("nbdkit", "nbdfuse", "fusermount3")
    with failing_disk(tmp_path / "failing", "pwrite") as failing:
        place = Place(failing.mountpoint, database_url)
        async with calling(place) as caller:
            for _ in range(3):
                assert (await caller.upload(100_000)).status == 201
            failing.trigger.touch()
            for way in WAYS:
                answer = await caller.upload(100_000, way)
                check_refusal(answer, 503, "store-unavailable")
            assert await caller.why_not_ready() != ""
            assert await find_violations(caller.service.url, caller.ledger) == []
            failing.trigger.unlink()
            unmount(failing.mountpoint)  # ext4 writes no more until it was checked
            failing.mount()
            if IS_THOROUGH:
                await caller.until_ready(seconds=FAILURE_SECONDS + 5)
                assert (await caller.upload(1000)).status == 201
            await check_settled(place, caller)
    report("EIO of blocks written", uploads=len(caller.ledger.uploaded), refusals=len(WAYS))


@on_databases
async def test_blocks_that_cannot_be_read_break_the_connection(
    tmp_path: Path, database_url: str, needs: Callable[..., None]
) -> None:
    needs("nbdkit", "nbdfuse", "fusermount3")
    with failing_disk(tmp_path / "failing", "pread") as failing:
        place = Place(failing.mountpoint, database_url)
        async with calling(place) as caller:
            key = (await caller.upload(MIB)).body.decode()
            failing.forget(blob_of(place, key))
            failing.trigger.touch()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await caller.get(key)
            failing.trigger.unlink()
            assert (await caller.get(key)).status == 200
            await caller.until_ready()
            await check_settled(place, caller)
    report("EIO of blocks read", broken=1)


# SQLite would run into the quota with its own files.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_quota_is_no_room(place: Place, log: Path) -> None:
    refused = 0
    async with calling(place) as caller:
        for calls in ("pwrite64", "?link,?linkat", "fsync"):
            with injected(pid_of(caller), log, f"{calls}:error=EDQUOT"):
                for way in WAYS:
                    check_refusal(await caller.upload(300_000, way), 507, "no-room")
                    refused += 1
            assert await find_leftovers(place, caller) == []
        await caller.until_ready()
        assert (await caller.upload(1000)).status == 201
        await check_settled(place, caller)
    report("quota", refusals=refused)


@on_databases
async def test_short_reads_and_writes_leave_the_bytes_whole(
    place: Place, log: Path, tmp_path: Path, needs: Callable[..., None]
) -> None:
    needs("cc")
    library = make_short_transfers(tmp_path)
    async with place.serving(LD_PRELOAD=str(library)) as service:
        caller = Caller(service, Ledger())
        with injected(pid_of(caller), log, "pwrite64:delay_enter=1"):
            for size, way in product((SMALL, MIB), WAYS):
                assert (await caller.upload(size, way)).status == 201
            assert await find_violations(service.url, caller.ledger) == []
        transferred = [int(size) for size in re.findall(r"\) = (\d+) ", log.read_text())]
        assert max(transferred) < 6000
        assert sum(transferred) >= len(WAYS) * (SMALL + MIB)
        await check_settled(place, caller)
    report("short transfers", transfers=len(transferred))


def leave_no_descriptor(pid: int, spare: int = 0) -> tuple[int, int]:
    """Let a process open nothing more, beyond `spare`; return the limits that it had."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = [number for number in range(len(used) + spare + 1) if number not in used]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[spare], limits[1]))
    return limits


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
async def test_without_descriptors_the_answer_is_503_and_never_404(place: Place) -> None:
    async with calling(place) as caller, AsyncExitStack() as stack:
        for _ in range(2):
            assert (await caller.upload(100_000)).status == 201
        kept, removed = caller.ledger.uploaded
        address = urlsplit(caller.service.url)
        wires = []
        for _ in range(8):
            wire = Wire(*await asyncio.open_connection(address.hostname, address.port))
            stack.push_async_callback(wire.close)
            await wire.send(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert (await wire.receive()).status == 200
            wires.append(wire)
        limits = leave_no_descriptor(pid_of(caller))
        asked = [
            f"GET /files/{kept}/", f"GET /files/{kept}/", "GET /readyz", "GET /healthz",
            "POST /files/", "PUT /files/a.txt", f"GET /files/{kept}/info",
            f"DELETE /files/{removed}/",
        ]  # fmt: skip
        statuses = []
        for wire, line in zip(wires, asked, strict=True):
            await wire.send(f"{line} HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n".encode())
            statuses.append((await wire.receive()).status)
        resource.prlimit(pid_of(caller), resource.RLIMIT_NOFILE, limits)
        assert statuses[:6] == [503, 503, 503, 200, 503, 503]
        assert statuses[6] in {200, 503}
        assert statuses[7] in {204, 503}
        if statuses[7] == 204:
            caller.ledger.deleted.add(removed)
        await caller.until_ready()
        assert (await caller.upload(1000)).status == 201
        await check_settled(place, caller)


@on_databases
async def test_more_clients_than_descriptors_are_served_or_told_to_wait(
    place: Place, seed: int
) -> None:
    clients, seconds = (60, 20.0) if IS_THOROUGH else (30, 1.0)
    async with calling(place) as caller:
        hard = resource.prlimit(pid_of(caller), resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid_of(caller), resource.RLIMIT_NOFILE, (64, hard))
        started = time.monotonic()
        load = Load(caller.service.url, caller.ledger, seed=seed, largest=20_000)
        await load.run(writers=clients, readers=clients, seconds=seconds)
        await caller.until_ready()
        told = [line for line in caller.service.lines if "out of system" in str(line["message"])]
        most = 10 * (time.monotonic() - started)
        assert (await caller.upload(1000)).status == 201
        assert await find_violations(caller.service.url, caller.ledger) == [], f"seed {seed}"
        sockets = [name for name in descriptors_of(pid_of(caller)) if name.startswith("socket:")]
        assert len(sockets) < 20, "more than listens, or is connected to the catalogue"
    assert caller.ledger.uploaded, "nothing went through: the test proved nothing"
    assert len(told) <= most, "one trouble floods the log"
    async with calling(place):  # what could not even be rolled back is settled at the next start
        await wait_until_settled(place)
        assert await audit(place) == [], f"seed {seed}"
    report("64 descriptors", uploads=len(caller.ledger.uploaded), log_lines=len(told))
