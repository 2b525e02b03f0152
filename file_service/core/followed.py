"""Followed: the digests of uploads, kept up from one request to the next."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from file_service.blobs.store import BlobStore
from file_service.core.digests import Digests
from file_service.errors import Unavailable
from file_service.models import Upload

# Uploads whose digests are kept up in memory; those of others are read again at their end.
MOST_FOLLOWED = 1024

# So much is read again before more is taken; what is longer is left to the end.
CATCH_UP_SIZE = 64 * 1024 * 1024

# How long the last request waits for bytes to be read again; then it is told to ask later.
FINISH_SECONDS = 20.0


class Followed:
    """What has been hashed of each upload; bytes that passed elsewhere are read from the stage."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._digests: OrderedDict[str, Digests] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Digests]] = {}

    async def begin(self, upload: Upload, is_over: Callable[[], bool]) -> Digests:
        """Return the digests of what is there; what is missing in them is read again, if little.

        No further once it `is_over`.
        """
        digests = self._recall(upload)
        if upload.offset - digests.offset <= CATCH_UP_SIZE:
            await self._catch_up(digests, upload, is_over)
        return digests

    def remember(self, upload_id: str, digests: Digests) -> None:
        """Keep digests for the request that goes on."""
        self._digests[upload_id] = digests
        if len(self._digests) > MOST_FOLLOWED:
            self._digests.popitem(last=False)

    async def finish(self, upload: Upload) -> Digests:
        """Return the digests of all of it; Unavailable, and going on, where that takes long."""
        reading = self._reading.get(upload.id)
        if reading is None:
            reading = asyncio.create_task(self._read_all(upload))
            self._reading[upload.id] = reading
            reading.add_done_callback(partial(self._end_reading, upload.id))
        await asyncio.wait([reading], timeout=FINISH_SECONDS)
        if not reading.done():
            raise Unavailable("All bytes are there; the file is being finished.")
        return reading.result()

    def forget(self, upload_id: str) -> None:
        """Let go of an upload that is no more."""
        self._digests.pop(upload_id, None)
        if reading := self._reading.pop(upload_id, None):
            reading.cancel()

    def _recall(self, upload: Upload) -> Digests:
        digests = self._digests.pop(upload.id, None)
        if digests is None or digests.is_broken or digests.offset > upload.offset:
            return Digests(upload.new.wanted_digests | upload.new.digests.keys())
        return digests

    async def _read_all(self, upload: Upload) -> Digests:
        digests = self._recall(upload)
        await self._catch_up(digests, upload, lambda: False)
        await digests.settle()
        return digests

    async def _catch_up(
        self, digests: Digests, upload: Upload, is_over: Callable[[], bool]
    ) -> None:
        if digests.offset < upload.offset:
            missing = self._store.read_staged(upload.id, digests.offset, upload.offset)
            async with aclosing(missing):
                async for _ in digests.follow(missing):
                    if is_over():
                        return

    def _end_reading(self, upload_id: str, reading: asyncio.Task[Digests]) -> None:
        """Remember what was read, for whoever asks later; nobody may."""
        self._reading.pop(upload_id, None)
        if not reading.cancelled() and reading.exception() is None:
            self.remember(upload_id, reading.result())
