"""What the local store asks of the file system: several system calls as one hop off the loop."""

import asyncio
import errno
import fcntl
import os
import stat
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar, cast

from file_service.blobs.store import Stamp
from file_service.models import BlobInfo, Chunk
from file_service.tasks import to_its_end

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Chunks from this size on, in bytes, start for the disk at once.
EARLY = 512 * 1024

# Bytes of one system call. For a longer one the kernel looks for as much memory in one piece, which
# takes it ten times as long as the write where memory is used up or in fragments.
LONGEST_WRITE = 512 * 1024

# A hidden file in the staging folder is older than this only where a crash left it.
HIDDEN_SECONDS = 5


def in_thread(
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Awaitable[Result]]:
    """Run `function` off the event loop, and never abandon it half-way."""

    async def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        loop = asyncio.get_running_loop()
        # A future, not a coroutine: the thread begins now, not when the loop comes round again.
        return await to_its_end(loop.run_in_executor(None, partial(function, *args, **kwargs)))

    return call


@in_thread
def create_stage(path: Path) -> BinaryIO:
    """Make a stage of our own, locked from its first moment; FileExistsError where there is one."""
    return make_stage(path)


def make_stage(path: Path) -> BinaryIO:
    """Do as `create_stage`, blocking."""
    # Under a hidden name first: recovery must not find it between being made and being locked.
    draft = path.with_name(f".{path.name}")
    file = _open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.lexists(path):  # a random key: only a mistake of ours gets here
            raise FileExistsError(errno.EEXIST, "the stage is there already", str(path))
        draft.rename(path)
    except OSError:
        file.close()
        draft.unlink(missing_ok=True)
        raise
    return file


@in_thread
def tidy(staging: Path) -> None:
    """Remove hidden files that a crash left: each lives for a moment only."""
    before = time.time() - HIDDEN_SECONDS
    with os.scandir(staging) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.stat(follow_symlinks=False).st_mtime < before:
                Path(entry).unlink(missing_ok=True)


@in_thread
def lock_stage(path: Path) -> BinaryIO | None:
    """Lock a stage that is there and that no process holds, on this machine or another."""
    try:
        file = _open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    if _lock(file, path):
        return file
    file.close()
    return None


def _lock(file: BinaryIO, path: Path) -> bool:
    try:
        # flock, not fcntl's locks: those vanish when any descriptor of the file is closed.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _is_at(file, path)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@in_thread
def hold_stage(path: Path) -> tuple[BinaryIO, bool] | None:
    """Lock a stage, made where there is none; return it, and whether it was made.

    None where another holds it.
    """
    try:
        file = _open(path, os.O_RDWR)
    except FileNotFoundError:
        try:
            return make_stage(path), True
        except FileExistsError:
            return None  # another was faster
    if _lock(file, path):
        return file, False
    file.close()
    return None


@in_thread
def truncate(file: BinaryIO, size: int) -> int:
    """Cut a stage to at most `size` bytes, durably; return how many it had."""
    found = os.fstat(file.fileno()).st_size
    if found > size:
        os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())  # what is linked next must not come back longer than its row says
    return found


@in_thread
def write(file: BinaryIO, stage: Path, chunk: Chunk, offset: int) -> None:
    """Write all of `chunk` at `offset` of a stage, and have a large one start for the disk."""
    if not _is_at(file, stage):
        # Its lock was lost while the machine slept, or the network did: it may be a blob by now.
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(stage))
    write_all(file, chunk, offset)
    if len(chunk) >= EARLY and hasattr(os, "posix_fadvise"):
        # Has the kernel begin to write to the disk, so that the sync at the end finds little left;
        # what is still to be written stays in memory.
        os.posix_fadvise(file.fileno(), offset, len(chunk), os.POSIX_FADV_DONTNEED)


def write_all(file: BinaryIO, chunk: Chunk, offset: int) -> None:
    """Write all of `chunk` at `offset`, blocking."""
    rest = memoryview(chunk)
    while rest:
        written = os.pwrite(file.fileno(), rest[:LONGEST_WRITE], offset)
        rest = rest[written:]
        offset += written


@in_thread
def sync(file: BinaryIO) -> None:
    """Make a file's bytes, and its size, durable."""
    os.fsync(file.fileno())


@in_thread
def copy(source: Path, target: BinaryIO, offset: int, size: int) -> int:
    """Copy a file's first `size` bytes to `target` at `offset` within the kernel.

    Return how many there were: none of a file that is not there. Where the file system can, both
    share the bytes from then on.
    """
    done = 0
    with suppress(FileNotFoundError), _open(source, os.O_RDONLY) as file:
        while done < size:
            copied = os.copy_file_range(
                file.fileno(), target.fileno(), size - done, done, offset + done
            )
            if copied == 0:
                break
            done += copied
    return done


@in_thread
def link(stage: Path, blob: Path) -> None:
    """Give the staged bytes their final name, durably; again is harmless.

    FileExistsError where other bytes have it.
    """
    add_link(stage, blob)
    fsync_folder(blob.parent)


def add_link(stage: Path, blob: Path) -> None:
    """Give the staged bytes their final name, blocking; again is harmless."""
    try:
        os.link(stage, blob)
    except FileExistsError:
        if not os.path.samestat(stage.stat(), blob.stat(follow_symlinks=False)):
            raise


@in_thread
def unlink_durably(path: Path) -> None:
    """Take a name away for good; absent is success."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        # Also where it was absent: whoever took it away may have died before this.
        fsync_folder(path.parent)


@in_thread
def set_aside(path: Path, place: Path) -> None:
    """Move a file to a folder that is made where it is missing, durably."""
    place.parent.mkdir(mode=0o750, exist_ok=True)
    path.rename(place)
    fsync_folder(place.parent)
    fsync_folder(path.parent)


@in_thread
def exists(path: Path) -> bool:
    """Whether there is anything at `path`."""
    return os.path.lexists(path)


@in_thread
def close(file: BinaryIO) -> None:
    """Close a file, which may take as long as the disk likes."""
    file.close()


@in_thread
def open_blob(path: Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else that may lie at `path`."""
    return _open_regular(path)


def _open_regular(path: Path) -> BinaryIO:
    # O_NONBLOCK: a fifo planted in the store must not hang the thread.
    file = _open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return file


@in_thread
def load(path: Path) -> tuple[bytes, Stamp]:
    """Return the whole of a small regular file, and what tells it from any later one."""
    with _open_regular(path) as file:
        found = os.fstat(file.fileno())
        content = _read_all(file, found.st_size + 1)
    return content, make_stamp(found)


def _read_all(file: BinaryIO, most: int) -> bytes:
    """Return a file's bytes, and no more than `most` of them: a read may bring less than asked."""
    content = b""
    while len(content) < most and (
        piece := os.pread(file.fileno(), most - len(content), len(content))
    ):
        content += piece
    return content


def look(path: str) -> Stamp | None:
    """Return the stamp of the file that is at `path` now, None where there is none."""
    try:
        return make_stamp(os.stat(path, follow_symlinks=False))  # noqa: PTH116  # a third of the time
    except OSError:
        return None


def make_stamp(found: os.stat_result) -> Stamp:
    """Return what tells a file from every other, and from itself once it has changed."""
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


@in_thread
def list_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, in order."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False))


@in_thread
def list_files(folder: Path) -> list[BlobInfo]:
    """Return everything in `folder` that is not hidden, in order of names."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                info = _look(entry)
                found += [info] if info is not None else []
    return sorted(found, key=lambda info: info.key)


def _look(entry: "os.DirEntry[str]") -> BlobInfo | None:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # it went while we looked
        return None
    return BlobInfo(entry.name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _open(path: Path, flags: int) -> BinaryIO:
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        return cast("BinaryIO", os.fdopen(fd, "r+b" if flags & os.O_RDWR else "rb", buffering=0))
    except OSError:  # fdopen refuses folders
        os.close(fd)
        raise


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable; blocking."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
