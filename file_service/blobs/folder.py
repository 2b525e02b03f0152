"""The folder of a store: its identity, its room, and whether it is the right one."""

import os
from itertools import islice
from pathlib import Path
from uuid import uuid4

from file_service.blobs.disk import fsync_folder, in_thread, make_stamp
from file_service.blobs.store import Stamp
from file_service.errors import StoreUnavailable

SENTINEL = "STORE"
LAYOUT = "file-service store, layout 1"

# Room that uploads leave to deletions, which a catalogue on the same disk must be able to commit.
LARGEST_RESERVE = 64 * 1024 * 1024
RESERVED_SHARE = 20

# File systems of one machine: a network's tells its changes when it likes.
_LOCAL = {"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}

# A stage takes one, and the probe beside it another.
FEWEST_INODES = 2

# What was read of sentinels that have not changed since.
_identities: dict[Stamp, str] = {}


def prepare(folder: Path) -> str:
    """Return the identity of the store in `folder`, made where there is none; blocking.

    Its folders are there and durable before its identity is, so that no upload makes one.
    """
    for name in ("blobs", "staging", *(f"blobs/{number:02x}" for number in range(256))):
        (folder / name).mkdir(mode=0o750, exist_ok=True)
    for each in (folder / "blobs", folder, folder.parent):
        fsync_folder(each)
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
    fsync_folder(folder)


def read_identity(folder: Path) -> str:
    """Return the identity of the store in `folder`; FileNotFoundError where it has none."""
    sentinel = folder / SENTINEL
    stamp = make_stamp(sentinel.stat())
    found = _identities.get(stamp)
    if found is None:
        layout, _, found = sentinel.read_text(errors="replace").strip().partition("\n")
        if layout != LAYOUT:
            raise StoreUnavailable("The store's layout is not one that this release knows.")
        _identities.clear()
        _identities[stamp] = found
    return found


def find_blobs(folder: Path, most: int) -> list[str]:
    """Return the keys of some blobs, at most `most`, of a folder that may be no store; blocking."""
    return [path.name for path in islice((folder / "blobs").glob("*/*"), most)]


@in_thread
def admit(folder: Path, identity: str) -> int:
    """Return how many bytes uploads may still write; StoreUnavailable in the wrong folder."""
    check(folder, identity)
    return _measure_room(folder)


@in_thread
def check_identity(folder: Path, identity: str) -> None:
    """Raise StoreUnavailable unless the store in `folder` is the one that belongs here."""
    check(folder, identity)


def check(folder: Path, identity: str) -> None:
    """Raise StoreUnavailable unless the store in `folder` is the one of `identity`; blocking."""
    try:
        found = read_identity(folder)
    except FileNotFoundError:
        raise StoreUnavailable("The blob store is not there: is its volume mounted?") from None
    if found != identity:
        raise StoreUnavailable("The folder holds another blob store than the catalogue's.")


@in_thread
def measure_room(folder: Path) -> int:
    """Return how many bytes uploads may still write; 0 where there are no inodes left."""
    return _measure_room(folder)


def _measure_room(folder: Path) -> int:
    found = os.statvfs(folder)
    if found.f_files and found.f_favail < FEWEST_INODES:
        return 0
    reserve = min(LARGEST_RESERVE, found.f_blocks * found.f_frsize // RESERVED_SHARE)
    return max(0, found.f_bavail * found.f_frsize - reserve)


@in_thread
def probe(staging: Path) -> None:
    """Write a byte, sync it, and take it away again."""
    path = staging / f".probe-{os.getpid()}"
    try:
        with path.open("wb", buffering=0) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def is_local(folder: Path) -> bool:
    """Whether what any process changes in `folder` is seen by all others at once."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return False
    best, kind = "", ""
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        place = before.split()[4].replace("\\040", " ")
        if folder.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, after.split()[0]
    return kind in _LOCAL
