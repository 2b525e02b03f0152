"""Resumable: uploads in many requests; every offset that is told is durable."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from file_service.blobs.store import BlobStore
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.uploads import UploadRows
from file_service.core.digests import check_size
from file_service.core.endings import Endings
from file_service.core.files import Files
from file_service.core.followed import Followed
from file_service.core.holds import Hold, Holds, Wish
from file_service.core.names import is_id
from file_service.core.receiver import Receiver, Tell, add_nothing
from file_service.core.room import Room
from file_service.errors import (
    BlobMissing,
    FileNotFound,
    FileServiceError,
    Malformed,
    Unavailable,
    UploadBusy,
    UploadExpired,
    UploadLost,
    UploadNotFound,
)
from file_service.models import Append, File, Manner, NewUpload, Stream, Upload
from file_service.tasks import to_its_end

# How long parts are kept once they were put together: the answer may have been lost.
PART_LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What uploads in many requests are granted: bytes, and time since the last request.

    An upload stays in hand for `keep_seconds` after each.
    """

    max_size: int | None = None
    lifetime: timedelta = timedelta(days=1)
    keep_seconds: float = 0.0


class Resumable:
    """Makes files out of many requests."""

    def __init__(
        self,
        store: BlobStore,
        catalogue: Catalogue,
        rows: UploadRows,
        files: Files,
        terms: Terms | None = None,
    ) -> None:
        self.terms = terms or Terms()
        self._store = store
        self._catalogue = catalogue
        self._rows = rows
        self._files = files
        self._holds = Holds(store, rows, keep_seconds=self.terms.keep_seconds)
        self._room = Room(store, rows)
        followed = Followed(store)
        self._receiver = Receiver(
            store,
            rows,
            followed,
            self._room,
            max_size=self.terms.max_size,
            lifetime=self.terms.lifetime,
        )
        self._endings = Endings(store, catalogue, rows, followed)

    async def close(self) -> None:
        """Let go of every upload that is in hand."""
        await self._holds.close()

    async def create(self, new: NewUpload, manner: Manner) -> Upload:
        """Make an upload that has no bytes yet; TooLarge, NoRoom or Unavailable."""
        check_size(new.length, self.terms.max_size)
        await self._catalogue.admit()
        await self._room.admit(new.length)
        now = datetime.now(UTC)
        upload = Upload(
            id=str(uuid4()),
            new=new,
            manner=manner,
            offset=0,
            created_at=now,
            expires_at=now + self.terms.lifetime,
        )
        await self._rows.add(upload)
        await self._confirm(upload)
        return upload

    async def _confirm(self, upload: Upload) -> None:
        """Look again, now that its length is promised: others may have been admitted meanwhile."""
        if upload.length is None:
            return
        try:
            await self._room.admit(0)
        except BaseException:
            await to_its_end(self._take_back(upload))
            raise

    async def _take_back(self, upload: Upload) -> None:
        """Remove an upload that nobody is told of; one that cannot be removed expires."""
        with suppress(FileServiceError):
            await self._rows.remove(upload)

    async def find(self, upload_id: str) -> Upload:
        """Return an upload as it was last written down; its holder may be further.

        A file of any other origin is an upload that is finished, of no dialect. UploadNotFound, or
        UploadExpired from the very second.
        """
        if not is_id(upload_id):
            raise UploadNotFound("An upload's id is a lower-case UUID of version 4.")
        try:
            upload = self._holds.find_idle(upload_id) or await self._rows.get(upload_id)
        except UploadNotFound as error:
            return await self._find_file(upload_id, error)
        is_file = upload.is_finished and not upload.manner.is_partial
        if not is_file and upload.expires_at <= datetime.now(UTC):
            raise UploadExpired("The upload was not gone on with in time.")
        return upload

    async def _find_file(self, upload_id: str, error: UploadNotFound) -> Upload:
        try:
            file = await self._catalogue.get_file(upload_id)
        except FileNotFound:
            raise error from None
        return Upload(
            id=file.id,
            new=NewUpload(length=file.size),
            manner=Manner(dialect=""),
            offset=file.size,
            created_at=file.created_at,
            expires_at=file.created_at,
            is_finished=True,
        )

    async def settle(self, upload: Upload) -> Upload:
        """Return an upload with an offset that stays: whoever is at work on it has to end.

        So has whoever is about to be: see `coming`. One that has all its bytes and is not finished,
        as after a crash, is finished first.
        """
        if not upload.is_finished and await self._holds.end_comers(upload.id):
            upload = await self.find(upload.id)
        if upload.is_finished or not (upload.is_held or upload.is_complete):
            return upload
        try:
            async with self._holds.hold(upload.id, Wish.AT_ONCE) as hold:
                if hold.upload.is_complete:
                    await to_its_end(self._endings.finish(hold))
                hold.keeps = True
                return hold.upload
        except UploadNotFound:
            return await self.find(upload.id)  # finished, or cancelled, meanwhile

    def coming(self, upload_id: str) -> AbstractContextManager[None]:
        """Mark a request of this process that will append, from before it looks the upload up.

        An offset that is told to a later one meanwhile would not stay.
        """
        return self._holds.coming(upload_id)

    async def append(
        self, upload: Upload, part: Append, stream: Stream, *, tell: Tell | None = None
    ) -> Upload:
        """Add a stream at the upload's offset, and finish it where they are its last.

        What arrives before an error is kept, unless it has a checksum to meet, or is too much.
        OffsetMismatch, LengthMismatch, TooLarge, ChecksumMismatch; UploadLost where a newer request
        has taken the upload, UploadBusy where an older one keeps it.
        """
        if upload.is_finished or upload.manner.is_final:
            return await add_nothing(upload, part, stream)
        try:
            return await self._append(upload, part, stream, tell)
        except UploadNotFound:
            ended = await self.find(upload.id)  # finished meanwhile
            return await add_nothing(ended, part, stream)

    async def _append(
        self, upload: Upload, part: Append, stream: Stream, tell: Tell | None
    ) -> Upload:
        async with self._holds.hold(upload.id, Wish.IF_STALLED) as hold:
            await self._receiver.receive(hold, part, stream, tell)
            if hold.upload.is_complete or part.is_last:
                await to_its_end(self._endings.finish(hold))
            hold.keeps = True
            return hold.upload

    async def cancel(self, upload: Upload) -> None:
        """Make the upload not exist, and the file that it may have become."""
        if not upload.is_finished:
            if await self.give_up(upload):
                return
            upload = await self.find(upload.id)  # finished meanwhile
        if upload.manner.is_partial:
            await to_its_end(self._endings.remove(upload))
        else:
            await self._files.delete(upload.id)

    async def give_up(self, upload: Upload) -> bool:
        """Make the upload not exist; False where it does not, or is finished, and then stays."""
        try:
            async with self._holds.hold(upload.id, Wish.AT_ONCE) as hold:
                await to_its_end(self._endings.remove(hold.upload))
        except UploadNotFound:
            return False
        return True

    async def get_file(self, upload: Upload) -> File:
        """Return the file that a finished upload has become."""
        return await self._files.get(upload.id)

    # ── of others ──

    async def concatenate(self, new: NewUpload, manner: Manner, parts: Sequence[str]) -> Upload:
        """Make a file of finished partial uploads, in their order; Malformed for others.

        The same words again mean the same file, as long as it and its upload are there: the answer
        may be lost. UploadBusy where a request in the same words has just failed.
        """
        upload = await self._find_same(manner) or await self._begin_final(new, manner, parts)
        if upload.is_finished:
            return upload
        try:
            async with self._holds.hold(upload.id, Wish.IF_STALLED) as hold:
                await to_its_end(self._put_together(hold, parts))
                return hold.upload
        except UploadNotFound:
            return await self._find_ended(upload.id)

    async def _find_ended(self, upload_id: str) -> Upload:
        try:
            return await self.find(upload_id)  # another request has finished it
        except UploadNotFound:
            raise UploadBusy("Another request has just failed to put it together.") from None

    async def _find_same(self, manner: Manner) -> Upload | None:
        same = await self._rows.find_same(manner)
        if same is None or (same.is_finished and not await self._is_file(same.id)):
            return None
        return same

    async def _is_file(self, upload_id: str) -> bool:
        try:
            await self._catalogue.get_file(upload_id)
        except FileNotFound:
            return False
        return True

    async def _begin_final(self, new: NewUpload, manner: Manner, parts: Sequence[str]) -> Upload:
        length = sum(size for _, size in await self._measure(parts))
        return await self.create(replace(new, length=length), manner)

    async def _measure(self, parts: Sequence[str]) -> list[tuple[str, int]]:
        """Return each part with its length in bytes."""
        uploads = [await self.find(part) for part in parts]
        if not all(each.is_finished and each.manner.is_partial for each in uploads):
            raise Malformed("Only finished partial uploads can be concatenated.")
        return [(each.id, each.offset) for each in uploads]

    async def _put_together(self, hold: Hold, parts: Sequence[str]) -> None:
        try:
            if not hold.upload.is_complete:  # else an earlier request got that far
                await self._receiver.advance(hold, await self._copy(hold.upload.id, parts))
            await self._endings.finish(hold)
        except (Unavailable, UploadLost):
            raise  # its outcome may be a file, or is another's
        except FileServiceError:
            with suppress(UploadNotFound):
                await self._endings.remove(hold.upload)
            raise
        await self._rows.expire(parts, datetime.now(UTC) + PART_LIFETIME)

    async def _copy(self, upload_id: str, parts: Sequence[str]) -> int:
        """Copy the parts together; return their length."""
        try:
            return await self._store.concatenate(upload_id, await self._look_for(parts))
        except BlobMissing:
            await self._look_for(parts)
            raise

    async def _look_for(self, parts: Sequence[str]) -> list[tuple[str, int]]:
        """Return each part with its length; Malformed where one has gone meanwhile."""
        try:
            return await self._measure(parts)
        except (UploadNotFound, UploadExpired) as error:
            raise Malformed("A part has been removed, or has expired.") from error
