"""LocalStore: blobs as files on disk; stage, fsync, link, fsync the folder."""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import aiofiles.os
from aiofile import AIOFile
from caio.thread_aio_asyncio import AsyncioContext

from file_service.errors import BlobMissing, NoRoom, StoreUnavailable
from file_service.models import Chunks

Result = TypeVar("Result")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode}


class LocalStore:
    """Keeps the BlobStore contract in one folder; made and used within one event loop.

    `staging/KEY` is a file in the making, locked by the process that writes it;
    `blobs/KE/KEY` is the same file once committed: a second link, so that a crash leaves either
    nothing or everything.
    """

    def __init__(self, folder: Path, *, chunk: int) -> None:
        self._blobs = folder / "blobs"
        self._staging = folder / "staging"
        self._chunk = chunk
        self._held: dict[str, BinaryIO] = {}
        # Threads, not the default: io_uring burns four times the CPU, linux_aio blocks the loop.
        self._io = AsyncioContext(loop=asyncio.get_running_loop())

    async def open(self) -> None:
        """Make the two folders where the store is new."""
        with _translated():
            await _make_folders(self._blobs, self._staging)

    async def close(self) -> None:
        """Let go of everything; stages still held are left to recovery."""
        for key in list(self._held):
            await _close(self._held.pop(key))
        self._io.close()

    async def append(self, key: str, offset: int, chunks: Chunks) -> int:
        """Write `chunks` at `offset` of the stage, fsync it, return its length."""
        with _translated():
            if key not in self._held:
                self._held[key] = await _open_stage(self._staging / key)
            file = self._as_aio(self._held[key])
        async for chunk in chunks:
            with _translated():
                offset += await _to_its_end(file.write_bytes(chunk, offset))
        with _translated():
            await _to_its_end(file.fsync())
        return offset

    async def commit(self, key: str) -> None:
        """Link the stage to its final place and fsync the folder."""
        with _translated():
            await _link(self._staging / key, self._path(key))

    async def discard(self, key: str) -> None:
        """Unlink the stage, then let it go: bytes nobody wants are not flushed on closing."""
        with _translated():
            await _unlink(self._staging / key)
        file = self._held.pop(key, None)
        if file is not None:
            await _close(file)

    async def read(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` up to `stop`, `chunk` at a time."""
        fd = await _open_blob(self._path(key))
        with fd:
            size = os.fstat(fd.fileno()).st_size
            stop = size if stop is None else stop
            if stop > size:
                raise BlobMissing(f"The blob of {key} has {size} bytes, fewer than {stop}.")
            file = self._as_aio(fd)
            while start < stop:
                with _translated():
                    chunk = await _to_its_end(
                        file.read_bytes(min(self._chunk, stop - start), start)
                    )
                if not chunk:
                    raise BlobMissing(f"The blob of {key} shrank to {start} bytes.")
                start += len(chunk)
                yield chunk

    async def delete(self, key: str) -> None:
        """Unlink the blob; absent is success."""
        with _translated():
            await _unlink(self._path(key))

    async def check(self) -> None:
        """Raise StoreUnavailable unless both folders are there and can be written."""
        with _translated():
            await _check_folders(self._blobs, self._staging)

    def _path(self, key: str) -> Path:
        return self._blobs / key[:2] / key

    def _as_aio(self, file: BinaryIO) -> AIOFile:
        return AIOFile.from_fp(file, context=self._io)


async def _to_its_end(operation: Awaitable[Result]) -> Result:
    """Await a disk operation to its end, even when cancelled.

    A queued write is not withdrawn by cancelling: were its file closed meanwhile, the bytes would
    go to whichever file gets the same descriptor next.
    """
    task = asyncio.ensure_future(operation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the system says into what we say; the path stays in the log, not in the answer."""
    try:
        yield
    except SystemError as error:
        # caio raises SystemError(strerror) without a number.
        raise _explain(_ERRNO_BY_TEXT.get(str(error)), error) from error
    except OSError as error:
        raise _explain(error.errno, error) from error


def _explain(number: int | None, error: Exception) -> Exception:
    if number is None:
        return error
    if number in _FULL:
        return NoRoom("There is no room left where the files are kept.")
    return StoreUnavailable(f"The blob store failed: {os.strerror(number)}.")


def _in_thread(function: Callable[..., Result]) -> Callable[..., Awaitable[Result]]:
    """Several system calls as one hop off the event loop, never abandoned half-way."""
    wrapped = aiofiles.os.wrap(function)

    async def call(*args: object) -> Result:
        return await _to_its_end(wrapped(*args))

    return call


@_in_thread
def _make_folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        _fsync_folder(folder.parent)


@_in_thread
def _check_folders(*folders: Path) -> None:
    for folder in folders:
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not a writable folder", str(folder))


@_in_thread
def _open_stage(path: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, 0o640), "r+b", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


@_in_thread
def _link(stage: Path, blob: Path) -> None:
    try:
        os.link(stage, blob)
    except FileNotFoundError:
        blob.parent.mkdir(mode=0o750, exist_ok=True)
        _fsync_folder(blob.parent.parent)
        os.link(stage, blob)
    _fsync_folder(blob.parent)


@_in_thread
def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


@_in_thread
def _close(file: BinaryIO) -> None:
    file.close()


@_in_thread
def _open_blob(path: Path) -> BinaryIO:
    try:
        # O_NONBLOCK: a fifo planted in the store must not hang the thread.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BlobMissing(f"The blob of {path.name} cannot be opened.") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BlobMissing(f"The blob of {path.name} is not a regular file.")
    return os.fdopen(fd, "rb", buffering=0)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
