"""Bytes that changed by themselves, and the commands that look after them: scrub and gc."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.callers import (
    MIB,
    Caller,
    calling,
    check_refusal,
    check_settled,
    find_leftovers,
)
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
from tests.faults.injection import injected
from tests.wire import Wire

HOUR = 3600

DATABASES = ["sqlite", "postgresql"] if IS_THOROUGH else ["sqlite"]
on_databases = pytest.mark.parametrize("database_url", DATABASES, indirect=True)


@pytest.fixture
def place(folder: Path, database_url: str) -> Place:
    return Place(folder, database_url)


def blob_of(place: Place, key: str) -> Path:
    return place.folder / "blobs" / key[:2] / key


async def run(place: Place, command: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run a command; return its exit status and its report."""
    done = await asyncio.to_thread(place.run, command, "--json", *flags)
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def flip(blob: Path) -> None:
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)


def truncate(blob: Path) -> None:
    os.truncate(blob, blob.stat().st_size - 1)


def extend(blob: Path) -> None:
    with blob.open("ab") as file:
        file.write(b"!")


def replace_by_link(blob: Path) -> None:
    blob.unlink()
    blob.symlink_to("/etc/passwd")


def replace_by_fifo(blob: Path) -> None:
    blob.unlink()
    os.mkfifo(blob)


def replace_by_folder(blob: Path) -> None:
    blob.unlink()
    blob.mkdir()


def replace_by_socket(blob: Path) -> None:
    blob.unlink()
    here = Path.cwd()
    os.chdir(blob.parent)  # its whole path is too long for the address of a socket
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(blob.name)
    finally:
        os.chdir(here)


# What is done to a blob, what a GET says then, and where scrub reports it.
DAMAGES: dict[str, tuple[Callable[[Path], None], int | None, str]] = {
    "flipped bit": (flip, None, "corrupt"),  # only reading it all can tell
    "truncated": (truncate, 500, "corrupt"),
    "extended": (extend, 500, "corrupt"),
    "symlink": (replace_by_link, 500, "missing"),
    "fifo": (replace_by_fifo, 500, "missing"),
    "folder": (replace_by_folder, 500, "missing"),
    "socket": (replace_by_socket, 500, "missing"),
    "gone": (Path.unlink, 500, "missing"),
}


async def damage(place: Place, caller: Caller) -> dict[str, str]:
    """Upload a file for every damage, and damage it; return the keys by their damage."""
    keys = {}
    for name, (hurt, _, _) in DAMAGES.items():
        keys[name] = (await caller.upload(50_000)).body.decode()
        await asyncio.to_thread(hurt, blob_of(place, keys[name]))
    return keys


@on_databases
async def test_damaged_bytes_are_found_put_aside_and_never_served_as_what_they_are_not(
    place: Place,
) -> None:
    async with calling(place) as caller:
        whole = (await caller.upload(50_000)).body.decode()
        keys = await damage(place, caller)
        for name, key in keys.items():
            if (status := DAMAGES[name][1]) == 500:
                check_refusal(await asyncio.wait_for(caller.get(key), 5), 500, "blob-missing")
            elif status == 200:
                assert (await caller.get(key)).headers["content-length"] == "50000"
        expected: dict[str, set[str]] = {"corrupt": set(), "missing": set()}
        for name, key in keys.items():
            expected[DAMAGES[name][2]].add(key)
        status, found = await run(place, "scrub")
        assert (status, found["files"], found["orphan"]) == (1, len(keys) + 1, [])
        assert {kind: set(found[kind]) for kind in expected} == expected
        assert found["quarantined"] == []
        status, found = await run(place, "scrub", "--quarantine")
        assert (status, set(found["quarantined"])) == (1, expected["corrupt"])
        assert set(place.names("quarantine")) == {f"{key}.corrupt" for key in expected["corrupt"]}
        for key in keys.values():
            check_refusal(await caller.get(key), 500, "blob-missing")
        if IS_THOROUGH:
            status, found = await run(place, "scrub")
            assert (status, found["corrupt"], set(found["missing"])) == (1, [], set(keys.values()))
        assert (await caller.get(whole)).status == 200
        await caller.until_ready()
    report("damaged bytes", files=len(keys) + 1, found=len(keys))


@on_databases
async def test_a_damaged_file_can_be_deleted_and_is_forgotten(place: Place) -> None:
    async with calling(place) as caller:
        keys = await damage(place, caller)
        for key in keys.values():
            assert (await caller.delete(key)).status == 204
            assert (await caller.get(key)).status == 404
        folder = blob_of(place, keys["folder"])
        status, found = await run(place, "gc")  # a folder is not taken away unseen
        assert (status, found["settled"]["failed"]) == (1, 1)
        folder.rmdir()
        await check_settled(place, caller)
    report("damaged bytes deleted", deletes=len(keys))


@on_databases
async def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection(place: Place) -> None:
    async with calling(place) as caller:
        key = (await caller.upload(32 * MIB)).body.decode()
        host, port = caller.service.url.removeprefix("http://").split(":")
        wire = Wire(*await asyncio.open_connection(host, port, limit=64 * 1024))
        await wire.send(f"GET /files/{key}/ HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        os.truncate(blob_of(place, key), MIB)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await wire.reader.readexactly(32 * MIB)
        await wire.close()
        caller.service.wait_for(f"download of {key} broke off")
        assert await find_leftovers(place, caller) == []


def plant(place: Place, *, age: float) -> str:
    """Put a blob there that no row knows."""
    key = str(uuid4())
    blob = blob_of(place, key)
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(b"orphan")
    os.utime(blob, (time.time() - age, time.time() - age))
    return key


@on_databases
async def test_gc_reports_and_removes_what_no_row_knows_and_nothing_else(place: Place) -> None:
    async with calling(place) as caller:
        for _ in range(3):
            assert (await caller.upload(1000)).status == 201
        old, new = plant(place, age=2 * HOUR), plant(place, age=0)
        (place.folder / "blobs" / "README").write_text("an operator's own")
        (place.folder / "blobs" / old[:2] / "notes.txt").write_text("an operator's own")
        status, found = await run(place, "scrub")
        assert (status, set(found["orphan"])) == (1, {old, new})
        status, found = await run(place, "gc", "--dry-run")
        assert (status, found["orphans"], found["bytes"]) == (0, [old], 6)
        assert {old, new} <= set(place.names("blobs"))
        status, found = await run(place, "gc")
        assert (status, found["orphans"], found["is_dry_run"]) == (0, [old], False)
        assert (old in place.names("blobs"), new in place.names("blobs")) == (False, True)
        done = await asyncio.to_thread(place.run, "gc", "--older-than", "0")
        assert (done.returncode, f"  {new}\n" in done.stdout) == (0, True)
        assert {"README", "notes.txt"} <= set(place.names("blobs"))
        (place.folder / "blobs" / "README").unlink()
        (place.folder / "blobs" / old[:2] / "notes.txt").unlink()
        await check_settled(place, caller)
    report("gc", orphans=2)


@on_databases
async def test_bytes_that_wait_for_their_removal_are_not_orphans(
    as_root: None, needs: Callable[..., None], place: Place, tmp_path: Path
) -> None:
    needs("strace")
    async with calling(place) as caller:
        key = (await caller.upload(1000)).body.decode()
        pid = caller.service.process.pid
        with injected(pid, tmp_path / "strace.log", "?unlink,?unlinkat:error=EIO"):
            assert (await caller.delete(key)).status == 204
        assert await place.column("SELECT id FROM removal") == [key]
        status, found = await run(place, "scrub")
        assert (status, found["orphan"]) == (0, []), "the catalogue knows these bytes"
        await check_settled(place, caller)


@on_databases
async def test_gc_refuses_to_remove_most_of_a_store_unless_told_to(place: Place) -> None:
    async with calling(place) as caller:
        assert (await caller.upload(1000)).status == 201
        orphans = {plant(place, age=2 * HOUR) for _ in range(101)}
        status, found = await run(place, "gc")
        assert (status, found["is_refused"], set(found["orphans"])) == (1, True, orphans)
        assert orphans <= set(place.names("blobs"))
        status, found = await run(place, "gc", "--all")
        assert (status, found["is_refused"], set(found["orphans"])) == (0, False, orphans)
        await check_settled(place, caller)
    report("gc of most of a store", orphans=len(orphans))


@pytest.mark.timeout(180)
@on_databases
async def test_gc_and_scrub_beside_a_busy_service_do_no_harm(place: Place, seed: int) -> None:
    seconds = 30.0 if IS_THOROUGH else 1.0
    rounds, wrong = 0, []
    ledger = Ledger()
    async with place.serving("--workers", "2") as service:
        load = Load(service.url, ledger, seed=seed, largest=100_000)
        loading = asyncio.create_task(load.run(writers=6, readers=3, seconds=seconds))
        while not loading.done():
            for command, flags in (("gc", ["--older-than", "0"]), ("scrub", [])):
                status, found = await run(place, command, *flags)
                rounds += 1
                if status != 0:
                    wrong.append((command, found))
        await loading
        await wait_until_settled(place)
        assert await find_violations(service.url, ledger) == [], f"seed {seed}"
    assert await audit(place) == [], f"seed {seed}"
    assert wrong == [], f"seed {seed}: a sound store was reported as broken"
    report("gc and scrub under load", rounds=rounds, uploads=len(ledger.uploaded))
