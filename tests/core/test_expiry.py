"""Uploads that come to the end of their time, as upkeep meets them."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from file_service.blobs.local import LocalStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core import upkeep as module
from file_service.core.upkeep import Upkeep
from file_service.errors import UploadNotFound
from file_service.models import Append, Checksum, Upload
from tests.core.test_resumable import BODY, add, begin, make
from tests.core.test_uploads import lying_in
from tests.doubles import Arriving, Halted


async def come_to_its_end(rows: UploadRows, upload: Upload) -> None:
    await rows.expire([upload.id], datetime.now(UTC))


async def is_known(rows: UploadRows, upload: Upload) -> bool:
    try:
        await rows.get(upload.id)
    except UploadNotFound:
        return False
    return True


async def test_what_is_gone_on_with_while_upkeep_looks_stays(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    await come_to_its_end(rows, upload)
    slow: Any = Halted(rows, "remove_expired")
    settling = asyncio.create_task(Upkeep(store, catalogue, slow).settle())
    await slow.begun.wait()  # it was found; and now the request comes that was on its way
    upload = await add(uploading, upload, BODY[100:200])
    slow.go_on.set()
    assert (await settling).failed == 0
    assert (await uploading.find(upload.id)).offset == 200


async def test_what_is_being_gone_on_with_stays(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep
) -> None:
    """With a checksum its time is put off at the end of the request only."""
    uploading = make(store, catalogue, rows)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    checksum = Checksum(algorithm="sha1", value=hashlib.sha1(BODY[100:200]).digest())
    part = Append(offset=100, size=100, checksum=checksum)
    stream = Arriving(BODY[100:150], is_whole=False)
    adding = asyncio.create_task(uploading.append(upload, part, stream))
    while not uploading._holds._holds:
        await asyncio.sleep(0.01)
    await come_to_its_end(rows, upload)
    assert (await upkeep.settle()).failed == 0
    stream.send(BODY[150:200])
    stream.end()
    assert (await adding).offset == 200


async def test_what_a_dead_process_held_goes(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep
) -> None:
    uploading = make(store, catalogue, rows, keep_seconds=60)
    upload = await add(uploading, await begin(uploading), BODY[:100])
    await store.release(upload.id)  # the kernel does, for a process that is killed
    assert (await rows.get(upload.id)).is_held
    await come_to_its_end(rows, upload)
    await upkeep.settle()
    assert not await is_known(rows, upload)
    assert lying_in(store._folder) == []


async def test_so_it_does_where_there_is_no_stage(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep
) -> None:
    uploading = make(store, catalogue, rows)
    upload = await begin(uploading)
    await rows.claim(upload.id)
    await come_to_its_end(rows, upload)
    await upkeep.settle()
    assert not await is_known(rows, upload)
    assert lying_in(store._folder) == []


async def test_one_that_cannot_be_looked_at_is_passed_over(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep
) -> None:
    uploading = make(store, catalogue, rows)
    odd, other = await begin(uploading), await begin(uploading)
    for each in (odd, other):
        await rows.claim(each.id)
    (store._folder / "staging" / odd.id).symlink_to("/")
    await rows.expire([odd.id, other.id], datetime.now(UTC))
    await upkeep.settle()
    assert (await is_known(rows, odd), await is_known(rows, other)) == (True, False)


async def test_all_go_in_one_round_however_many(
    store: LocalStore,
    catalogue: Catalogue,
    rows: UploadRows,
    upkeep: Upkeep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BATCH", 5)
    uploading = make(store, catalogue, rows)
    uploads = [await begin(uploading) for _ in range(12)]
    await rows.expire([each.id for each in uploads], datetime.now(UTC))
    await upkeep.settle()
    assert await rows.find_expired(datetime.now(UTC) + timedelta(days=2), 100) == []


async def test_nothing_is_promised_to_what_is_over(
    store: LocalStore, catalogue: Catalogue, rows: UploadRows
) -> None:
    uploading = make(store, catalogue, rows)
    over = await begin(uploading)
    await begin(uploading, 10)
    await come_to_its_end(rows, over)
    assert await rows.sum_reserved() == 10
