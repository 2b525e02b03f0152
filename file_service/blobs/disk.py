"""What the local store asks of the file system: several system calls as one hop off the loop."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar, cast
from uuid import uuid4

import aiofiles.os

from file_service.errors import StoreUnavailable
from file_service.models import BlobInfo
from file_service.tasks import to_its_end

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SENTINEL = "STORE"
LAYOUT = "file-service store, layout 1"

# Room that uploads leave to deletions, which a catalogue on the same disk must be able to commit.
LARGEST_RESERVE = 64 * 1024 * 1024
RESERVED_SHARE = 20

# A stage takes one, and the probe beside it another.
FEWEST_INODES = 2

# A hidden file in the staging folder is older than this only where a crash left it.
HIDDEN_SECONDS = 5


def _in_thread(
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Awaitable[Result]]:
    """Run `function` off the event loop, and never abandon it half-way."""
    wrapped = aiofiles.os.wrap(function)

    async def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        result: Result = await to_its_end(wrapped(*args, **kwargs))
        return result

    return call


def prepare(folder: Path) -> str:
    """Return the identity of the store in `folder`, made where there is none; blocking.

    Its folders are there and durable before its identity is, so that no upload makes one.
    """
    for name in ("blobs", "staging", *(f"blobs/{number:02x}" for number in range(256))):
        (folder / name).mkdir(mode=0o750, exist_ok=True)
    for each in (folder / "blobs", folder, folder.parent):
        _fsync_folder(each)
    if not (folder / SENTINEL).exists():
        _write_identity(folder)
    return read_identity(folder)


def _write_identity(folder: Path) -> None:
    draft = folder / f".{SENTINEL}.{uuid4()}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as file:
        file.write(f"{LAYOUT}\n{uuid4()}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, folder / SENTINEL)  # of several that start at once, one wins
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    _fsync_folder(folder)


def read_identity(folder: Path) -> str:
    """Return the identity of the store in `folder`; FileNotFoundError where it has none."""
    layout, _, identity = (folder / SENTINEL).read_text(errors="replace").strip().partition("\n")
    if layout != LAYOUT:
        raise StoreUnavailable("The store's layout is not one that this release knows.")
    return identity


def find_blobs(folder: Path, most: int) -> list[str]:
    """Return the keys of some blobs, at most `most`, of a folder that may be no store; blocking."""
    return [path.name for path in islice((folder / "blobs").glob("*/*"), most)]


@_in_thread
def admit(folder: Path, identity: str) -> int:
    """Return how many bytes uploads may still write; StoreUnavailable in the wrong folder."""
    _check_identity(folder, identity)
    return _measure_room(folder)


@_in_thread
def check_identity(folder: Path, identity: str) -> None:
    """Raise StoreUnavailable unless the store in `folder` is the one that belongs here."""
    _check_identity(folder, identity)


def _check_identity(folder: Path, identity: str) -> None:
    try:
        found = read_identity(folder)
    except FileNotFoundError:
        raise StoreUnavailable("The blob store is not there: is its volume mounted?") from None
    if found != identity:
        raise StoreUnavailable("The folder holds another blob store than the catalogue's.")


@_in_thread
def measure_room(folder: Path) -> int:
    """Return how many bytes uploads may still write; 0 where there are no inodes left."""
    return _measure_room(folder)


def _measure_room(folder: Path) -> int:
    found = os.statvfs(folder)
    if found.f_files and found.f_favail < FEWEST_INODES:
        return 0
    reserve = min(LARGEST_RESERVE, found.f_blocks * found.f_frsize // RESERVED_SHARE)
    return max(0, found.f_bavail * found.f_frsize - reserve)


@_in_thread
def probe(staging: Path) -> None:
    """Write a byte, sync it, and take it away again."""
    path = staging / f".probe-{os.getpid()}"
    try:
        with path.open("wb", buffering=0) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


@_in_thread
def create_stage(path: Path) -> BinaryIO:
    """Make a stage of our own, locked from its first moment; FileExistsError where there is one."""
    return _create_stage(path)


def _create_stage(path: Path) -> BinaryIO:
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


@_in_thread
def tidy(staging: Path) -> None:
    """Remove hidden files that a crash left: each lives for a moment only."""
    before = time.time() - HIDDEN_SECONDS
    with os.scandir(staging) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.stat(follow_symlinks=False).st_mtime < before:
                Path(entry).unlink(missing_ok=True)


@_in_thread
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


@_in_thread
def hold_stage(path: Path) -> BinaryIO | None:
    """Lock a stage, made where there is none; None where another holds it."""
    try:
        file = _open(path, os.O_RDWR)
    except FileNotFoundError:
        try:
            return _create_stage(path)
        except FileExistsError:
            return None  # another was faster
    if _lock(file, path):
        return file
    file.close()
    return None


@_in_thread
def truncate(file: BinaryIO, size: int) -> int:
    """Cut a stage to at most `size` bytes; return how many it had."""
    found = os.fstat(file.fileno()).st_size
    if found > size:
        os.ftruncate(file.fileno(), size)
    return found


@_in_thread
def copy(source: Path, target: BinaryIO, offset: int) -> int:
    """Append a file's bytes to `target` at `offset` within the kernel; return the offset behind.

    Where the file system can, both share the bytes from then on.
    """
    with _open(source, os.O_RDONLY) as file:
        left = os.fstat(file.fileno()).st_size
        start = 0
        while left:
            copied = os.copy_file_range(file.fileno(), target.fileno(), left, start, offset + start)
            if copied == 0:
                raise OSError(errno.EIO, "the file shrank while it was copied", str(source))
            start += copied
            left -= copied
    return offset + start


@_in_thread
def link(stage: Path, blob: Path) -> None:
    """Give the staged bytes their final name, durably; again is harmless.

    FileExistsError where other bytes have it.
    """
    try:
        os.link(stage, blob)
    except FileExistsError:
        if not os.path.samestat(stage.stat(), blob.stat(follow_symlinks=False)):
            raise
    _fsync_folder(blob.parent)


@_in_thread
def unlink(path: Path) -> bool:
    """Take a name away; return whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


@_in_thread
def unlink_durably(path: Path) -> None:
    """Take a name away for good; absent is success."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        # Also where it was absent: whoever took it away may have died before this.
        _fsync_folder(path.parent)


@_in_thread
def set_aside(path: Path, place: Path) -> None:
    """Move a file to a folder that is made where it is missing, durably."""
    place.parent.mkdir(mode=0o750, exist_ok=True)
    path.rename(place)
    _fsync_folder(place.parent)
    _fsync_folder(path.parent)


@_in_thread
def exists(path: Path) -> bool:
    """Whether there is anything at `path`."""
    return os.path.lexists(path)


@_in_thread
def close(file: BinaryIO) -> None:
    """Close a file, which may take as long as the disk likes."""
    file.close()


@_in_thread
def open_blob(path: Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else that may lie at `path`."""
    # O_NONBLOCK: a fifo planted in the store must not hang the thread.
    file = _open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return file


@_in_thread
def list_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, in order."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False))


@_in_thread
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


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
