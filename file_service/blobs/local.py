"""LocalStore: blobs as files on disk; stage, fsync, link, fsync the folder."""

import asyncio
import errno
import os
import resource
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from aiofile import AIOFile
from caio.thread_aio_asyncio import AsyncioContext

from file_service.blobs import disk
from file_service.blobs import folder as folders
from file_service.blobs.puts import Puts
from file_service.blobs.store import Grip, Stamp
from file_service.errors import BlobMissing, NoRoom, StoreUnavailable
from file_service.metrics import Counter
from file_service.models import BlobInfo, Chunks
from file_service.tasks import to_its_end

# Failed writes of the disk itself, after which uploads are refused for a while: a disk that loses
# one fsync loses the next one, too.
MOST_FAILURES = 3
FAILURE_SECONDS = 60.0

# A long upload is synced on its way, so that its end does not have to wait for all of it.
SYNC_SIZE = 64 * 1024 * 1024

# How old what is known of the free room may be.
ROOM_SECONDS = 1.0

# How long a byte that could be written proves that bytes can be.
PROBE_SECONDS = 1.0

FAILURES = Counter("disk_failures", "Writes and syncs that ended in an I/O error.")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode}


class LocalStore:
    """Keeps the BlobStore contract in one folder; made and used within one event loop.

    `staging/KEY` is a file in the making, locked by the process that writes it;
    `blobs/KE/KEY` is the same file once committed: a second link, so that a crash leaves either
    nothing or everything. `STORE` says which store this is.
    """

    def __init__(self, folder: Path, *, chunk: int, identity: str) -> None:
        self._folder = folder
        self._blobs = folder / "blobs"
        self._staging = folder / "staging"
        self._quarantine = folder / "quarantine"
        self._chunk = chunk
        self._identity = identity
        self._puts = Puts(partial(folders.check, folder, identity))
        self._is_local = folders.is_local(folder)
        self._held: dict[str, BinaryIO] = {}
        self._most_held = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3
        self._failures: deque[float] = deque(maxlen=MOST_FAILURES)
        self._room = 0
        self._room_known_at = float("-inf")
        self._probed_at = float("-inf")
        # Threads, not the default: io_uring burns four times the CPU, linux_aio blocks the loop.
        self._io = AsyncioContext(loop=asyncio.get_running_loop())

    async def close(self) -> None:
        """Let go of everything; stages still held are left to recovery."""
        for key in list(self._held):
            await self.release(key)
        self._puts.close()
        self._io.close()

    # ── writing ──

    async def admit(self, length: int | None, *, is_put: bool = False) -> None:
        """Raise NoRoom or StoreUnavailable where an upload of `length` bytes cannot succeed."""
        self._check_failures()
        # At every upload: into a folder that was exchanged a moment ago, no byte may go.
        if not is_put or self._is_room_old():
            await self._look_around()
        self._check_room(length or 0)

    async def append(self, key: str, offset: int, chunks: Chunks) -> int:
        """Write `chunks` at `offset` of the stage, fsync it, return its length."""
        with self._translated():
            if key not in self._held:
                self._check_held()
                self._held[key] = await disk.create_stage(self._staging / key)
        file, stage = self._held[key], self._staging / key
        syncs = _Syncs(file)
        try:
            async for chunk in chunks:
                with self._translated():
                    await self._take_room(len(chunk))
                    await disk.write(file, stage, chunk, offset)
                    offset += len(chunk)
                    await syncs.follow(len(chunk))
        finally:
            with self._translated():
                await syncs.end()
        with self._translated():
            # An error here is final: a second fsync would succeed without the data being there.
            await disk.sync(file)
        return offset

    async def hold(self, key: str) -> Grip:
        """Lock the stage, made where there is none; NONE where it is locked already."""
        with self._translated():
            found = None if key in self._held else await disk.hold_stage(self._staging / key)
        if found is None:
            return Grip.NONE
        self._held[key], is_made = found
        return Grip.MADE if is_made else Grip.FOUND

    async def truncate(self, key: str, offset: int) -> None:
        """Forget the bytes past `offset`; BlobMissing where there are fewer."""
        with self._translated():
            found = await disk.truncate(self._held[key], offset)
        if found < offset:
            raise BlobMissing(f"The stage of {key} has {found} bytes, fewer than {offset}.")

    async def concatenate(self, key: str, parts: Sequence[tuple[str, int]]) -> int:
        """Append stages to a stage by the kernel, and fsync it; return its length."""
        length = 0
        with self._translated():
            for part, size in parts:
                copied = await disk.copy(self._staging / part, self._held[key], length, size)
                if copied < size:
                    raise BlobMissing(f"The stage of {part} has {copied} bytes, not {size}.")
                length += size
            await disk.sync(self._held[key])
        return length

    async def commit(self, key: str) -> None:
        """Link the stage to its final place and fsync the folder."""
        with self._translated():
            await disk.link(self._staging / key, self._path(key))

    async def put(self, key: str, content: bytes) -> None:
        """Stage a small blob and commit it, all in one hop."""
        stage, blob = self._staging / key, self._path(key)
        with self._translated():
            await self._take_room(len(content))
            self._held[key] = await to_its_end(self._puts.put(stage, blob, content))

    async def discard(self, key: str) -> bool:
        """Unlink the stage and let it go."""
        with self._translated():
            file = self._held.pop(key, None)
            return await to_its_end(self._puts.discard(self._staging / key, file))

    async def release(self, key: str) -> None:
        """Let the stage go and leave it where it is."""
        file = self._held.pop(key, None)
        if file is not None:
            with self._translated():
                await disk.close(file)

    async def take_over(self, key: str) -> bool:
        """Hold a stage that nobody holds; False where it is held, or gone."""
        with self._translated():
            file = None if key in self._held else await disk.lock_stage(self._staging / key)
        if file is None:
            return False
        self._held[key] = file
        return True

    # ── reading ──

    def read(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` up to `stop`, `chunk` at a time."""
        return self._read(key, self._path(key), start, stop)

    def read_staged(self, key: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield bytes of the stage, `chunk` at a time."""
        return self._read(key, self._staging / key, start, stop)

    async def _read(
        self, key: str, path: Path, start: int, stop: int | None
    ) -> AsyncGenerator[bytes, None]:
        with await self._open(key, path) as blob:
            size = os.fstat(blob.fileno()).st_size
            stop = size if stop is None else stop
            if stop > size:
                raise BlobMissing(f"The blob of {key} has {size} bytes, fewer than {stop}.")
            file = self._as_aio(blob)
            while start < stop:
                with _unreadable(key):
                    chunk = await to_its_end(file.read_bytes(min(self._chunk, stop - start), start))
                if not chunk:
                    raise BlobMissing(f"The blob of {key} shrank to {start} bytes.")
                start += len(chunk)
                yield chunk

    async def open(self, key: str, size: int) -> BinaryIO:
        """Return the blob as an open file; BlobMissing where it has not `size` bytes."""
        blob = await self._open(key, self._path(key))
        found = os.fstat(blob.fileno()).st_size
        if found != size:
            blob.close()
            raise BlobMissing(f"The blob of {key} has {found} bytes, not {size}.")
        return blob

    async def load(self, key: str, size: int) -> tuple[bytes, Stamp | None]:
        """Return all of a small blob, and its stamp; BlobMissing where it has another size."""
        with _unreadable(key):
            content, stamp = await disk.load(self._path(key))
        if len(content) != size:
            raise BlobMissing(f"The blob of {key} has {len(content)} bytes, not {size}.")
        return content, stamp if self._is_local else None

    def stamp(self, key: str) -> Stamp | None:
        """Return the blob's stamp; its inode was read a moment ago, so the disk is not asked."""
        return disk.look(f"{self._blobs}/{key[:2]}/{key}")  # a Path takes longer than the look

    async def get_size(self, key: str) -> int:
        """Return how many bytes the blob has; BlobMissing where it is not a blob at all."""
        with await self._open(key, self._path(key)) as blob:
            return os.fstat(blob.fileno()).st_size

    async def _open(self, key: str, path: Path) -> BinaryIO:
        with _unreadable(key):
            return await disk.open_blob(path)

    # ── upkeep ──

    async def delete(self, key: str) -> None:
        """Unlink the blob, durably; absent is success, unless this is not our folder."""
        with self._translated():
            await folders.check_identity(self._folder, self._identity)
            await disk.unlink_durably(self._path(key))

    async def quarantine(self, key: str, why: str) -> None:
        """Put a blob aside, out of every reader's way, for a person to look at."""
        with self._translated():
            await disk.set_aside(self._path(key), self._quarantine / f"{key}.{why}")

    async def tidy(self) -> None:
        """Remove what a crash left of stages in the making."""
        with self._translated():
            await disk.tidy(self._staging)

    async def blobs(self) -> AsyncIterator[BlobInfo]:
        """Yield every blob, one folder of them at a time."""
        with self._translated():
            folders = await disk.list_folders(self._blobs)
        for folder in folders:
            with self._translated():
                found = await disk.list_files(folder)
            for info in found:
                yield info

    async def stages(self) -> AsyncIterator[BlobInfo]:
        """Yield every stage, held or not."""
        with self._translated():
            found = await disk.list_files(self._staging)
        for info in found:
            yield info

    async def has_stage(self, key: str) -> bool:
        """Whether bytes of this key are still staged."""
        with self._translated():
            return await disk.exists(self._staging / key)

    async def has_blob(self, key: str) -> bool:
        """Whether there is anything where the blob of this key would be."""
        with self._translated():
            return await disk.exists(self._path(key))

    async def check(self) -> None:
        """Raise NoRoom or StoreUnavailable unless a byte can be written durably now."""
        self._check_failures()
        await self._look_around()
        self._check_room(0)
        with self._translated():
            if time.monotonic() - self._probed_at > PROBE_SECONDS:  # it costs the disk a sync
                await folders.probe(self._staging)
                self._probed_at = time.monotonic()

    def _path(self, key: str) -> Path:
        return self._blobs / key[:2] / key

    def _as_aio(self, file: BinaryIO) -> AIOFile:
        return AIOFile.from_fp(file, context=self._io)

    def _check_failures(self) -> None:
        recent = time.monotonic() - FAILURE_SECONDS
        if len(self._failures) == MOST_FAILURES and self._failures[0] > recent:
            raise StoreUnavailable("The blob store's disk failed several times in a minute.")

    def _check_held(self) -> None:
        # A form holds a stage for each of its files: not all that readers need, too.
        if len(self._held) >= self._most_held:
            raise StoreUnavailable("Too many uploads are under way.")

    def _is_room_old(self) -> bool:
        return time.monotonic() - self._room_known_at > ROOM_SECONDS

    async def _take_room(self, size: int) -> None:
        # What is known of the room is used up as bytes are written, and asked for again when it is
        # old or seems too little.
        if self._is_room_old() or size >= self._room:
            await self._learn_room()
        self._check_room(size)
        self._room -= size

    async def _look_around(self) -> None:
        with self._translated():
            self._room = await folders.admit(self._folder, self._identity)
        self._room_known_at = time.monotonic()

    async def _learn_room(self) -> None:
        self._room = await folders.measure_room(self._folder)
        self._room_known_at = time.monotonic()

    def _check_room(self, size: int) -> None:
        if size >= self._room:
            raise NoRoom("There is no room left where the files are kept.")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the system says into what we say; the path stays in the log."""
        try:
            yield
        except (OSError, SystemError) as error:
            number = get_errno(error)
            if number is None:
                raise
            if number in _FULL:
                raise NoRoom("There is no room left where the files are kept.") from error
            if number == errno.EIO:
                self._failures.append(time.monotonic())
                FAILURES.add()
            raise StoreUnavailable(f"The blob store failed: {os.strerror(number)}.") from error


class _Syncs:
    """Syncs a file in the background while it grows; one sync at a time, so that it keeps up."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = 0
        self._sync: asyncio.Task[None] | None = None

    async def follow(self, size: int) -> None:
        """Note `size` more bytes; raises what the sync before has met."""
        self._written += size
        if self._written >= SYNC_SIZE:
            await self.end()
            self._written = 0
            self._sync = asyncio.ensure_future(disk.sync(self._file))

    async def end(self) -> None:
        """Wait for the sync under way."""
        if self._sync is not None:
            sync, self._sync = self._sync, None
            await to_its_end(sync)


@contextmanager
def _unreadable(key: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SystemError) as error:
        number = get_errno(error)
        if number in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise StoreUnavailable("The service has too many files open.") from error
        raise BlobMissing(f"The blob of {key} cannot be read.") from error


def get_errno(error: OSError | SystemError) -> int | None:
    """Return the number of a failed system call; caio tells it by its text alone."""
    return error.errno if isinstance(error, OSError) else _ERRNO_BY_TEXT.get(str(error))
