"""The store's folder is gone, or another one is in its place: while the service runs, at start."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from file_service.blobs import folder as folders
from file_service.catalogue.database import Database
from file_service.catalogue.engine import connect
from file_service.catalogue.queries import Catalogue
from tests.faults.callers import WAYS, Caller, calling, check_refusal, check_settled, until
from tests.faults.disks import mount, mounted_image, unmount
from tests.faults.harness import IS_THOROUGH, Place, report
from tests.processes import service_environment
from tests.wire import Answer, Wire

DATABASES = ["sqlite", "postgresql"] if IS_THOROUGH else ["sqlite"]
on_databases = pytest.mark.parametrize("database_url", DATABASES, indirect=True)

GONE = "The blob store is not there: is its volume mounted?"
FOREIGN = "The folder holds another blob store than the catalogue's."
LAYOUT = "The store's layout is not one that this release knows."


def make_foreign(path: Path) -> Path:
    """Make another store, with a file and an upload in the making."""
    path.mkdir()
    folders.prepare(path)
    key = str(uuid4())
    (path / "blobs" / key[:2] / key).write_bytes(b"theirs")
    (path / "staging" / str(uuid4())).write_bytes(b"theirs, too")
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@contextmanager
def renamed_away(folder: Path) -> Iterator[None]:
    aside = folder.with_name("aside")
    folder.rename(aside)
    yield
    assert not folder.exists(), "the service made its folder anew"
    aside.rename(folder)


@contextmanager
def exchanged(folder: Path) -> Iterator[None]:
    foreign = make_foreign(folder.with_name("foreign"))
    before = files_in(foreign)
    aside = folder.with_name("aside")
    folder.rename(aside)
    foreign.rename(folder)
    yield
    folder.rename(foreign)
    aside.rename(folder)
    assert files_in(foreign) == before, "the service touched what is not its own"


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    with renamed_away(folder):
        folder.mkdir()
        yield
        folder.rmdir()  # fails where the service made something in it


@contextmanager
def replaced_by_a_file(folder: Path) -> Iterator[None]:
    with renamed_away(folder):
        folder.write_text("")
        yield
        folder.unlink()


@contextmanager
def without_sentinel(folder: Path) -> Iterator[None]:
    aside = folder.with_name("aside")
    (folder / folders.SENTINEL).rename(aside)
    yield
    aside.rename(folder / folders.SENTINEL)


@contextmanager
def with_sentinel(folder: Path, content: bytes) -> Iterator[None]:
    with without_sentinel(folder):
        (folder / folders.SENTINEL).write_bytes(content)
        yield


# What happens, the reason that readyz gives, what a GET of a file is told meanwhile.
TROUBLES = {
    "renamed away": (renamed_away, GONE, 500),
    "exchanged": (exchanged, FOREIGN, 500),
    "emptied": (emptied, GONE, 500),
    "replaced by a file": (replaced_by_a_file, "The blob store failed: Not a directory.", 500),
    "without STORE": (without_sentinel, GONE, 200),
    "STORE of zeros": (lambda folder: with_sentinel(folder, bytes(40)), LAYOUT, 200),
    "STORE of noise": (lambda folder: with_sentinel(folder, b"\xff" * 40), LAYOUT, 200),
}
SAMPLE = ["renamed away", "exchanged", "without STORE", "STORE of noise"]
SOME = list(TROUBLES) if IS_THOROUGH else SAMPLE


@asynccontextmanager
async def upload_under_way(caller: Caller) -> AsyncIterator[Wire]:
    """An upload of which half the body was sent, and is on the disk."""
    address = urlsplit(caller.service.url)
    wire = Wire(*await asyncio.open_connection(address.hostname, address.port))
    chunk = b"%x\r\n%b\r\n" % (300_000, os.urandom(300_000))
    await wire.send(
        b"POST /files/ HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n", chunk
    )
    try:
        yield wire
    finally:
        await wire.close()


async def finish(wire: Wire) -> Answer:
    await wire.send(b"1\r\n.\r\n0\r\n\r\n")
    return await wire.receive()


async def check_refuses(caller: Caller, reason: str, get_status: int) -> None:
    """What the service says while the trouble lasts."""
    kept, removed, _ = caller.ledger.uploaded
    await caller.until_red(reason)
    for way in WAYS:
        check_refusal(await caller.upload(1000, way), 503, "store-unavailable")
    check_refusal(await caller.announce(1000), 503, "store-unavailable")
    assert (await caller.get(kept)).status == get_status
    assert (await caller.delete(removed)).status == 204
    assert (await caller.get(removed)).status == 404
    assert (await caller.get(kept)).status == get_status


@on_databases
@pytest.mark.parametrize("trouble", SOME)
async def test_a_folder_that_is_not_ours_is_left_alone_until_ours_is_back(
    folder: Path, database_url: str, trouble: str
) -> None:
    hurt, reason, get_status = TROUBLES[trouble]
    place = Place(folder, database_url)
    async with calling(place) as caller:
        for _ in range(3):
            assert (await caller.upload(1000)).status == 201
        async with upload_under_way(caller) as wire:

            async def is_staged() -> bool:
                return bool(place.names("staging"))

            await until(is_staged, "the upload is on its way")
            with hurt(folder):
                await check_refuses(caller, reason, get_status)
                if get_status == 500:  # our folder is really away
                    check_refusal(await finish(wire), 503, "store-unavailable")
        assert set(place.names("blobs")) >= set(caller.ledger.uploaded), "bytes were forgotten"
        await caller.until_ready()
        assert (await caller.upload(1000)).status == 201
        await check_settled(place, caller)
    report(f"folder {trouble}", uploads=len(caller.ledger.uploaded), refusals=len(WAYS) + 1)


@on_databases
async def test_a_volume_that_is_unmounted_is_not_written_below_its_mountpoint(
    as_root: None, tmp_path: Path, database_url: str
) -> None:
    with mounted_image(tmp_path / "image", "ext4", 16) as mountpoint:
        place = Place(mountpoint, database_url)
        async with calling(place) as caller:
            for _ in range(3):
                assert (await caller.upload(1000)).status == 201
            unmount(mountpoint)
            await check_refuses(caller, GONE, 500)
            assert list(mountpoint.iterdir()) == []
            mount(mountpoint)
            await caller.until_ready()
            assert (await caller.upload(1000)).status == 201
            await check_settled(place, caller)
    report("unmounted", uploads=len(caller.ledger.uploaded), refusals=len(WAYS) + 1)


def start(place: Place, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is to refuse; were it to start, it would be ended."""
    port = ["--port", "0"] if command == "serve" else []
    return subprocess.run(
        [sys.executable, "-m", "file_service", command, *place.flags, *port],
        capture_output=True,
        text=True,
        check=False,
        env=service_environment(),
        timeout=20,
    )


async def make_store(place: Place) -> None:
    """Make a store with a blob, which the catalogue knows as its own."""
    identity = folders.prepare(place.folder)
    key = str(uuid4())
    (place.folder / "blobs" / key[:2] / key).write_bytes(b"ours")
    engine = connect(place.database_url)
    await Catalogue(Database(engine)).claim_store(identity)
    await engine.dispose()


def check_not_started(done: subprocess.CompletedProcess[str], place: Place, reason: str) -> None:
    """It ended with 1 and one clear line."""
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"file-service: --dir {place.folder}: {reason}\n"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("trouble", SOME)
async def test_no_command_starts_on_a_folder_that_is_not_ours(
    folder: Path, database_url: str, trouble: str
) -> None:
    hurt, reason, _ = TROUBLES[trouble]
    if trouble in {"renamed away", "replaced by a file"}:
        reason = "there is no such folder"
    place = Place(folder, database_url)
    await make_store(place)
    before = files_in(folder)
    with hurt(folder):
        for command in ("serve", "gc", "scrub") if IS_THOROUGH else ("serve",):
            check_not_started(await asyncio.to_thread(start, place, command), place, reason)
    assert files_in(folder) == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_blobs_without_their_sentinel_are_not_taken_over_by_a_new_catalogue(
    folder: Path, database_url: str
) -> None:
    place = Place(folder, database_url)
    (folder / "blobs" / "ab").mkdir(parents=True)
    (folder / "blobs" / "ab" / "blob").write_bytes(b"somebody's")
    done = await asyncio.to_thread(start, place, "serve")
    check_not_started(done, place, "its files are those of another catalogue")
    assert files_in(folder) == {"blobs/ab/blob": b"somebody's"}
