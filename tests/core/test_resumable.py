"""Resumable where its parts fail, and what is read again for digests."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest

from file_service.blobs.local import LocalStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core import followed as module
from file_service.core.files import Files
from file_service.core.holds import Wish
from file_service.core.resumable import Resumable, Terms
from file_service.core.upkeep import Settled, Upkeep
from file_service.errors import (
    CatalogueUnavailable,
    FileServiceError,
    Malformed,
    NoRoom,
    OffsetMismatch,
    StoreUnavailable,
    Unavailable,
    UploadBusy,
    UploadLost,
    UploadNotFound,
)
from file_service.models import TUS, Append, Manner, NewUpload, Upload
from tests.core.test_uploads import lying_in
from tests.doubles import Arriving, Failing, Halted

BODY = os.urandom(300_000)


def make(store: Any, catalogue: Any, rows: Any, *, keep_seconds: float = 0) -> Resumable:
    terms = Terms(keep_seconds=keep_seconds)
    return Resumable(store, catalogue, rows, Files(store, catalogue, rows), terms)


@pytest.fixture
def uploading(store: LocalStore, catalogue: Catalogue, rows: UploadRows) -> Resumable:
    return make(store, catalogue, rows)


async def begin(uploading: Resumable, length: int | None = len(BODY)) -> Upload:
    return await uploading.create(NewUpload(length=length), Manner(dialect=TUS))


async def add(uploading: Resumable, upload: Upload, *chunks: bytes) -> Upload:
    part = Append(offset=upload.offset, size=sum(map(len, chunks)))
    return await uploading.append(upload, part, Arriving(*chunks))


async def check_file(catalogue: Catalogue, upload: Upload, body: bytes = BODY) -> None:
    file = await catalogue.get_file(upload.id)
    assert (file.size, file.sha256) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_file_whose_row_is_in_doubt_is_settled_by_the_next_question(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep, is_done: bool
) -> None:
    """The connection to the database breaks at the COMMIT that makes the file, or behind it."""
    away = Failing(rows, on="finish", error=CatalogueUnavailable("away"), after=is_done)
    uploading = make(store, catalogue, away)
    upload = await begin(uploading)
    with pytest.raises(CatalogueUnavailable):
        await add(uploading, upload, BODY)
    away.repair()
    assert (await uploading.settle(await uploading.find(upload.id))).is_finished
    await check_file(catalogue, upload)
    assert (await upkeep.settle()).failed == 0
    assert [chunk async for chunk in Files(store, catalogue, rows).read(
        await catalogue.get_file(upload.id))] != []  # fmt: skip


@pytest.mark.parametrize("call", ["commit", "discard"])
async def test_when_the_store_fails_at_the_end_it_is_gone_on_with(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep, call: str
) -> None:
    broken = Failing(store, on=call, error=StoreUnavailable("broken"))
    uploading = make(broken, catalogue, rows)
    upload = await begin(uploading)
    if call == "commit":
        with pytest.raises(StoreUnavailable):
            await add(uploading, upload, BODY)
    else:
        await add(uploading, upload, BODY)
    broken.repair()
    assert (await uploading.settle(await uploading.find(upload.id))).is_finished
    await check_file(catalogue, upload)
    await upkeep.settle()
    assert len(lying_in(store._folder)) == 1


async def test_what_was_durable_before_the_disk_filled_up_is_kept(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows)
    upload = await add(uploading, await begin(uploading), BODY[:100_000])
    full = make(Failing(store, on="append", error=NoRoom("full")), catalogue, rows)
    with pytest.raises(NoRoom):
        await add(full, upload, BODY[100_000:])
    found = await uploading.settle(await uploading.find(upload.id))
    assert found.offset == 100_000
    await add(uploading, found, BODY[100_000:])
    await check_file(catalogue, upload)


async def test_an_upload_that_is_kept_in_hand_is_claimed_once(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows, keep_seconds=60)
    with patch.object(rows, "claim", wraps=rows.claim) as claim:
        upload = await begin(uploading)
        for start in range(0, len(BODY), 100_000):
            upload = await add(uploading, upload, BODY[start : start + 100_000])
        assert claim.call_count == 1
    await check_file(catalogue, upload)
    assert await store.hold(upload.id)  # let go of with its end


async def test_an_upload_is_kept_in_hand_for_its_time_only(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows, keep_seconds=0.1)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    assert not await store.take_over(upload.id)
    async with asyncio.timeout(10):
        while not await store.take_over(upload.id):  # its lock goes last
            await asyncio.sleep(0.05)
    assert not (await rows.get(upload.id)).is_held


async def test_what_is_kept_in_hand_is_let_go_at_the_end(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows, keep_seconds=60)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    await uploading.close()
    assert not (await rows.get(upload.id)).is_held
    assert await store.take_over(upload.id)


async def test_an_upload_that_is_kept_in_hand_can_be_cancelled(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows, keep_seconds=60)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    await uploading.cancel(upload)
    with pytest.raises(UploadNotFound):
        await uploading.find(upload.id)
    assert lying_in(store._folder) == []


async def test_a_request_that_waits_for_another_takes_up_what_that_keeps(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows, keep_seconds=60)
    upload = await begin(uploading)
    outcomes = await asyncio.gather(
        *(add(uploading, upload, BODY[:100]) for _ in range(10)), return_exceptions=True
    )
    assert [type(each) for each in outcomes].count(OffsetMismatch) == 9
    assert (await uploading.find(upload.id)).offset == 100


async def test_bytes_that_a_dead_process_left_behind_the_offset_are_cut_off(
    store: LocalStore, uploading: Resumable, catalogue: Catalogue
) -> None:
    upload = await add(uploading, await begin(uploading), BODY[:100])
    with (store._folder / "staging" / upload.id).open("ab") as file:
        file.write(b"never told")
    upload = await add(uploading, await uploading.find(upload.id), BODY[100:])
    await check_file(catalogue, upload)


async def test_an_upload_that_lost_bytes_is_not_gone_on_with(
    store: LocalStore, uploading: Resumable
) -> None:
    upload = await add(uploading, await begin(uploading), BODY[:100])
    os.truncate(store._folder / "staging" / upload.id, 50)
    with pytest.raises(FileServiceError, match="50 bytes, fewer than 100"):
        await add(uploading, upload, BODY[100:])


async def test_another_process_goes_on_and_reads_again_what_it_did_not_see(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make(store, catalogue, rows), make(store, catalogue, rows)
    upload = await add(one, await begin(one), BODY[:100_000])
    upload = await add(other, upload, BODY[100_000:200_000])
    monkeypatch.setattr(module, "CATCH_UP_SIZE", 10)  # and now what is much is left to the end
    upload = await add(one, upload, BODY[200_000:])
    await check_file(catalogue, upload)


@pytest.mark.parametrize("sizes", [[100], [50, 50]], ids=["the last chunk", "one before"])
async def test_digests_that_failed_are_made_anew_from_what_is_stored(
    catalogue: Catalogue, uploading: Resumable, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    """Of the last chunk it is seen only when somebody asks for the digests."""
    upload = await add(uploading, await begin(uploading), BODY[:100])
    digests = uploading._receiver._followed._digests[upload.id]
    monkeypatch.setattr(digests._hashing, "_update", raise_memory_error)
    with nullcontext() if len(sizes) == 1 else pytest.raises(MemoryError):
        await add(uploading, upload, *(BODY[100 : 100 + size] for size in sizes))
    assert digests._hashing.is_broken
    upload = await uploading.settle(await uploading.find(upload.id))
    await add(uploading, upload, BODY[upload.offset :])
    await check_file(catalogue, upload)


def raise_memory_error(*_: object) -> None:
    raise MemoryError


async def test_nothing_is_remembered_of_an_upload_that_is_finished(uploading: Resumable) -> None:
    await add(uploading, await begin(uploading), BODY[:100], BODY[100:])
    await make_parts(uploading)
    assert not uploading._receiver._followed._digests


async def test_who_is_wanted_while_it_reads_again_does_not_read_to_the_end(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    read: list[int] = []

    class Told:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def read_staged(self, key: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
            async for chunk in store.read_staged(key, start, stop):
                read.append(len(chunk))
                await uploading._holds._holds[key].run(wish(key), Arriving())
                yield chunk

    async def wish(key: str) -> None:
        uploading._holds._holds[key].want(Wish.AT_ONCE)

    other, uploading = make(store, catalogue, rows), make(Told(), catalogue, rows)
    upload = await add(other, await begin(other, length=2_000_000), bytes(1_000_000))
    with pytest.raises(UploadLost):
        await add(uploading, upload, BODY[:100])
    assert len(read) == 1


async def test_reading_again_that_takes_long_is_not_waited_for(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FINISH_SECONDS", 0.05)
    monkeypatch.setattr(module, "CATCH_UP_SIZE", -1)
    go_on = asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def read_staged(self, key: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
            await go_on.wait()
            async for chunk in store.read_staged(key, start, stop):
                yield chunk

    uploading, other = make(Slow(), catalogue, rows), make(store, catalogue, rows)
    upload = await add(other, await begin(other), BODY[:100])
    with pytest.raises(Unavailable):
        await add(uploading, upload, BODY[100:])
    with pytest.raises(Unavailable):
        await uploading.settle(await uploading.find(upload.id))
    go_on.set()
    assert (await uploading.settle(await uploading.find(upload.id))).is_finished
    await check_file(catalogue, upload)


async def test_a_request_that_keeps_the_upload_is_not_waited_for_for_ever(
    store: LocalStore, uploading: Resumable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("file_service.core.holds.PATIENCE_SECONDS", 0.2)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    assert await store.hold(upload.id)
    with pytest.raises(UploadBusy):
        await add(uploading, upload, BODY[100:])
    await store.release(upload.id)
    assert (await add(uploading, upload, BODY[100:])).is_finished


async def test_a_cancelled_upload_whose_bytes_cannot_go_yet_goes_later(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep
) -> None:
    stuck = Failing(store, on="delete", error=StoreUnavailable("read-only"))
    uploading = make(stuck, catalogue, rows)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    await uploading.cancel(upload)
    assert lying_in(store._folder) == [upload.id]
    assert await upkeep.settle() == Settled(rolled_back=1, removed=1)
    assert lying_in(store._folder) == []


# --- the same parts put together again: the answer to the first request was lost ---


async def make_parts(uploading: Resumable) -> tuple[list[str], Manner]:
    parts = []
    for body in (BODY[:100_000], BODY[100_000:]):
        manner = Manner(dialect=TUS, concat="partial")
        part = await uploading.create(NewUpload(length=len(body)), manner)
        parts.append((await add(uploading, part, body)).id)
    return parts, Manner(dialect=TUS, concat=f"final;{' '.join(parts)}")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", ["concatenate", "commit", "advance", "finish"])
async def test_what_failed_half_way_is_gone_on_with_by_the_same_words(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    upkeep: Upkeep,
    call: str,
    after: bool,
) -> None:
    parts, manner = await make_parts(make(store, catalogue, rows))
    error = Unavailable("away")
    away = Failing(rows, on=call, error=error, after=after)
    broken = Failing(store, on=call, error=error, after=after)
    uploading = make(broken, catalogue, away)
    with pytest.raises(Unavailable):
        await uploading.concatenate(NewUpload(), manner, parts)
    left = await rows.find_same(manner)
    away.repair()
    broken.repair()
    whole = await uploading.concatenate(NewUpload(), manner, parts)
    assert whole.is_finished
    assert left is not None
    assert whole.id == left.id
    await check_file(catalogue, whole)
    for part in parts:
        await uploading.cancel(await uploading.find(part))
    await upkeep.settle()  # the stage of what was finished, and nobody knew
    assert [name.rpartition("/")[2] for name in lying_in(store._folder)] == [whole.id]


async def test_whoever_comes_while_they_are_put_together_waits_for_the_same_file(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    slow = Halted(store, "concatenate")
    uploading = make(slow, catalogue, rows)
    parts, manner = await make_parts(uploading)
    first = asyncio.create_task(uploading.concatenate(NewUpload(), manner, parts))
    await slow.begun.wait()
    second = asyncio.create_task(uploading.concatenate(NewUpload(), manner, parts))
    asyncio.get_running_loop().call_later(0.2, slow.go_on.set)
    assert (await first).id == (await second).id
    assert (await second).is_finished
    await check_file(catalogue, await first)


async def test_parts_that_went_meanwhile_end_what_was_begun_with_them(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    broken = Failing(store, on="concatenate", error=Unavailable("away"))
    uploading = make(broken, catalogue, rows)
    parts, manner = await make_parts(uploading)
    with pytest.raises(Unavailable):
        await uploading.concatenate(NewUpload(), manner, parts)
    broken.repair()
    await uploading.cancel(await uploading.find(parts[1]))
    with pytest.raises(Malformed):
        await uploading.concatenate(NewUpload(), manner, parts)
    assert await rows.find_same(manner) is None
    assert await rows.sum_reserved() == 0


async def test_who_waited_for_one_that_failed_is_told_to_ask_again(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def concatenate(self, key: str, parts: list[tuple[str, int]]) -> int:
            begun.set()
            await go_on.wait()
            raise NoRoom("full")

    uploading = make(Full(), catalogue, rows)
    parts, manner = await make_parts(uploading)
    first = asyncio.create_task(uploading.concatenate(NewUpload(), manner, parts))
    await begun.wait()
    second = asyncio.create_task(uploading.concatenate(NewUpload(), manner, parts))
    asyncio.get_running_loop().call_later(0.2, go_on.set)
    with pytest.raises(NoRoom):
        await first
    with pytest.raises(UploadBusy):
        await second
