"""How uploads end where others want them, too, or where a part of ours fails meanwhile."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from file_service.blobs.local import LocalStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.upkeep import Upkeep
from file_service.errors import (
    DigestMismatch,
    FileNotFound,
    FileServiceError,
    Malformed,
    NoRoom,
    StoreUnavailable,
    TooLarge,
    UploadNotFound,
)
from file_service.models import Append, NewUpload
from tests.core.test_resumable import BODY, add, begin, check_file, make, make_parts
from tests.core.test_uploads import lying_in
from tests.doubles import Arriving, Failing, Halted


@pytest.fixture
async def elsewhere(folder: Path, store: LocalStore) -> AsyncIterator[LocalStore]:
    """The same store in another process."""
    other = LocalStore(folder, chunk=65_536, identity=store._identity)
    yield other
    await other.close()


# ── cancelled ──


async def test_one_that_is_cancelled_while_it_is_finished_leaves_no_file(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    slow = Halted(store, "commit")
    uploading = make(slow, catalogue, rows)
    upload = await begin(uploading)
    last = asyncio.create_task(add(uploading, upload, BODY))
    await slow.begun.wait()
    cancelling = asyncio.create_task(uploading.cancel(upload))
    await asyncio.sleep(0.1)
    slow.go_on.set()
    assert (await last).is_finished
    await cancelling
    with pytest.raises(FileNotFound):
        await catalogue.get_file(upload.id)
    assert lying_in(store._folder) == []


async def test_what_is_given_up_stays_where_it_was_finished_before(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows)
    upload = await begin(uploading)
    await add(uploading, upload, BODY)
    assert not await uploading.give_up(upload)
    await check_file(catalogue, upload)
    assert len(lying_in(store._folder)) == 1


async def test_a_part_whose_bytes_cannot_go_yet_goes_later(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep
) -> None:
    stuck = Failing(store, on="delete", error=StoreUnavailable("read-only"))
    uploading = make(stuck, catalogue, rows)
    parts, _ = await make_parts(uploading)
    for part in parts:
        await uploading.cancel(await uploading.find(part))
    assert len(lying_in(store._folder)) == 2
    await upkeep.settle()
    assert lying_in(store._folder) == []


async def test_a_request_for_what_is_no_more_leaves_no_stage(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows)
    gone = await begin(uploading)
    await uploading.cancel(gone)
    with pytest.raises(UploadNotFound):
        await add(uploading, gone, BODY)
    assert lying_in(store._folder) == []


# ── taken back ──


async def test_digests_of_what_was_taken_back_are_not_gone_on_with(
    store: LocalStore, elsewhere: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    """One process sees the bytes that are refused, another one those that come instead."""
    one, other = make(store, catalogue, rows), make(elsewhere, catalogue, rows)
    upload = await begin(one, 300)
    stream = Arriving(BODY[:40], is_whole=False)
    moved = asyncio.Event()

    async def tell(_: int) -> None:
        moved.set()

    refused = asyncio.create_task(one.append(upload, Append(offset=0), stream, tell=tell))
    while not one._holds._holds:
        await asyncio.sleep(0.01)
    one._holds._holds[upload.id].nudge()
    await asyncio.wait_for(moved.wait(), 10)  # the first batch is on record
    stream.send(BODY[:300])
    with pytest.raises(TooLarge):
        await refused
    upload = await add(other, await other.find(upload.id), BODY[1000:1060])
    upload = await add(one, upload, BODY[1060:1300])
    await check_file(catalogue, upload, BODY[1000:1300])


@pytest.mark.parametrize("error", [NoRoom("others were faster"), StoreUnavailable("away")])
async def test_a_length_that_is_not_confirmed_is_not_kept(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, error: FileServiceError
) -> None:
    """Others may have been admitted between the look at the room and the promise."""
    uploading = make(store, catalogue, rows)
    upload = await begin(uploading, None)
    with pytest.raises(type(error)):
        await begin(make(_FailingTheSecondTime(store, error), catalogue, rows))
    part = Append(offset=0, size=1, length=1000)
    full = make(_FailingTheSecondTime(store, error), catalogue, rows)
    with pytest.raises(type(error)):
        await full.append(upload, part, Arriving(b"x"))
    assert await rows.sum_reserved() == 0
    assert (await rows.get(upload.id)).length is None


class _FailingTheSecondTime:
    def __init__(self, store: LocalStore, error: FileServiceError) -> None:
        self._store = store
        self._error = error
        self._is_admitted = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def admit(self, length: int | None, *, is_put: bool = False) -> None:
        if self._is_admitted:
            raise self._error
        self._is_admitted = True
        await self._store.admit(length, is_put=is_put)


# ── put together ──


async def test_a_part_that_goes_while_it_is_copied_ends_the_whole(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    slow = Halted(store, "concatenate")
    uploading = make(slow, catalogue, rows)
    parts, manner = await make_parts(uploading)
    whole = asyncio.create_task(uploading.concatenate(NewUpload(), manner, parts))
    await slow.begun.wait()
    await uploading.cancel(await uploading.find(parts[1]))
    slow.go_on.set()
    with pytest.raises(Malformed):
        await whole
    assert await rows.find_same(manner) is None
    assert await rows.sum_reserved() == 0
    assert [name.rpartition("/")[2] for name in lying_in(store._folder)] == parts[:1]


async def test_a_whole_that_is_not_what_it_should_be_is_refused_every_time(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows)
    parts, manner = await make_parts(uploading)
    for _ in range(2):
        with pytest.raises(DigestMismatch):
            await uploading.concatenate(NewUpload(digests={"sha-256": bytes(32)}), manner, parts)
    assert len(lying_in(store._folder)) == len(parts)


async def test_of_a_part_no_more_is_copied_than_was_told(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows)
    parts, manner = await make_parts(uploading)
    with (store._folder / "staging" / parts[0]).open("ab") as file:
        file.write(b"what a power cut has brought back")
    await check_file(catalogue, await uploading.concatenate(NewUpload(), manner, parts))


# ── fenced ──


async def test_who_lost_its_lock_leaves_the_file_of_the_next_one_alone(
    store: LocalStore, elsewhere: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    """As on a machine that slept, for its lock on a network's file system."""
    slow = Halted(store, "concatenate")
    one, other = make(slow, catalogue, rows), make(elsewhere, catalogue, rows)
    parts, manner = await make_parts(other)
    first = asyncio.create_task(one.concatenate(NewUpload(), manner, parts))
    await slow.begun.wait()
    [file] = store._held.values()
    fcntl.flock(file, fcntl.LOCK_UN)
    whole = await other.concatenate(NewUpload(), manner, parts)
    slow.go_on.set()
    with pytest.raises(FileServiceError):
        await first
    await check_file(catalogue, whole)
    assert await elsewhere.has_blob(whole.id)


async def test_who_lost_its_lock_does_not_write_into_the_file_of_the_next_one(
    store: LocalStore, elsewhere: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    one, other = make(store, catalogue, rows), make(elsewhere, catalogue, rows)
    upload = await begin(one)
    stream = Arriving(is_whole=False)
    first = asyncio.create_task(one.append(upload, Append(offset=0, size=1000), stream))
    while upload.id not in store._held:
        await asyncio.sleep(0.01)
    fcntl.flock(store._held[upload.id], fcntl.LOCK_UN)
    done = await add(other, upload, BODY)
    stream.send(bytes(1000))
    stream.end()
    with pytest.raises(StoreUnavailable):
        await first
    await check_file(catalogue, done)
    assert b"".join([chunk async for chunk in elsewhere.read(upload.id)]) == BODY


async def test_what_is_cut_off_is_synced_before_the_rest_is_linked(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uploading = make(store, catalogue, rows)
    upload = await add(uploading, await begin(uploading, None), BODY[:100])
    with (store._folder / "staging" / upload.id).open("ab") as file:
        file.write(b"never told")
    seen: list[str] = []

    def see(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            seen.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, call)

    for name in ("ftruncate", "fsync", "link"):
        see(name)
    part = Append(offset=100, size=0, length=100)
    assert (await uploading.append(upload, part, Arriving())).is_finished
    assert seen[:3] == ["ftruncate", "fsync", "link"]
