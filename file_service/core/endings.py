"""Endings: an upload in many requests becomes a file, or ceases to exist."""

import logging
from collections.abc import AsyncIterator

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.description import describe
from file_service.core.digests import Digests
from file_service.core.followed import Followed
from file_service.core.holds import Hold
from file_service.errors import DigestMismatch, FileServiceError, LengthMismatch
from file_service.models import Upload

logger = logging.getLogger(__name__)


class Endings:
    """Ends uploads; what is begun here is to go to its end."""

    def __init__(
        self, store: BlobStore, catalogue: Catalogue, rows: UploadRows, followed: Followed
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._rows = rows
        self._followed = followed

    async def finish(self, hold: Hold) -> None:
        """Make the upload the file that it was meant to be, or a finished part; again is harmless.

        LengthMismatch where bytes are missing; DigestMismatch where they are others, and it is
        removed; Unavailable where they have to be read again and that takes long.
        """
        upload = hold.upload
        if upload.length is None:
            hold.upload = upload = await self._rows.declare(upload, upload.offset)
        if not upload.is_whole:
            raise LengthMismatch(f"Of {upload.length} bytes, {upload.offset} are there.")
        if upload.manner.is_partial:
            hold.upload = await self._rows.finish(upload, None)
        else:
            await self._make_file(hold, await self._verify(upload))
        self._followed.forget(upload.id)

    async def remove(self, upload: Upload) -> None:
        """Take the row away, then the bytes; what cannot be taken yet is left to upkeep.

        UploadNotFound where that has happened, or another request holds it by now.
        """
        has_bytes = await self._rows.remove(upload)
        self._followed.forget(upload.id)
        if has_bytes:
            await self._remove_bytes(upload.id)

    async def _remove_bytes(self, upload_id: str) -> None:
        is_taken = False
        try:
            is_taken = await self._store.take_over(upload_id)  # a part has no holder
            await self._store.delete(upload_id)
            await self._store.discard(upload_id)
            await self._catalogue.drop_removals([upload_id])
        except FileServiceError as error:
            logger.warning("the bytes of %s stay for now: %s", upload_id, error)
        finally:
            if is_taken:
                await self._store.release(upload_id)

    async def _verify(self, upload: Upload) -> Digests:
        digests = await self._followed.finish(upload)
        try:
            digests.verify(upload.new.digests)
        except DigestMismatch:
            await self.remove(upload)
            raise
        return digests

    async def _make_file(self, hold: Hold, digests: Digests) -> None:
        upload = hold.upload
        if upload.offset == 0:
            await self._store.append(upload.id, 0, _nothing())  # never synced until now
        await self._store.commit(upload.id)
        hold.upload = await self._rows.finish(upload, describe(upload.id, upload.new, digests))
        await self._drop_stage(upload.id)

    async def _drop_stage(self, upload_id: str) -> None:
        try:
            await self._store.discard(upload_id)
        except FileServiceError as error:
            logger.warning("the stage of %s stays for now: %s", upload_id, error)


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in list[bytes]():
        yield chunk
