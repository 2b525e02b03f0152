"""Small disks of one's own that can fill up, and whose power can be cut: images on loop devices."""

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

Kind = Literal["ext4", "xfs"]

# mkfs.xfs refuses anything smaller; the image is sparse.
SMALLEST_XFS_MIB = 300

# What a power cut leaves of what was not synced: nothing at all, or all that the journal holds.
NOTHING_FLUSHED, LOG_FLUSHED = 2, 1

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
_UNMOUNT_SECONDS = 20.0


@contextmanager
def mounted_image(
    folder: Path, kind: Kind, size_mib: int, *mkfs_options: str, mount_options: str = "loop"
) -> Iterator[Path]:
    """Make a file system of `size_mib` in an image below `folder` and mount it; yield where.

    It is unmounted with the block, however the block ends and whatever still uses it. ext4 keeps
    no blocks for root: when it is full, it is full for the tests, too.
    """
    mountpoint = folder / "mount" / "disk"
    mountpoint.mkdir(parents=True)
    if kind == "xfs":
        size_mib = max(size_mib, SMALLEST_XFS_MIB)
    with _image_of(mountpoint).open("wb") as image:
        image.truncate(size_mib * 1024 * 1024)
    quietly = {"ext4": ["-q", "-F", "-m", "0"], "xfs": ["-q", "-f"]}[kind]
    _run(f"mkfs.{kind}", *quietly, *mkfs_options, str(_image_of(mountpoint)))
    with _shared(mountpoint.parent):
        mount(mountpoint, mount_options)
        try:
            yield mountpoint
        finally:
            if mountpoint.is_mount():
                unmount(mountpoint, force=True)
    _image_of(mountpoint).unlink()


@contextmanager
def _shared(folder: Path) -> Iterator[None]:
    """Have what is mounted below go from other mount namespaces, too, when it goes from ours.

    Another process may make a namespace at any time, as `ip netns exec` does, and a file system
    that is still mounted there only seems to be unmounted: it would never feel its power cut.
    """
    _run("mount", "--bind", str(folder), str(folder))
    try:
        _run("mount", "--make-shared", str(folder))
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def power_cut(mountpoint: Path, flags: int = NOTHING_FLUSHED) -> None:
    """Make the file system lose at once what is not on its disk; only `remount` helps it then."""
    fd = os.open(mountpoint, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", flags))
    finally:
        os.close(fd)


def remount(mountpoint: Path, mount_options: str = "loop") -> None:
    """Unmount the image and mount it again, which replays its journal; nobody may use it."""
    unmount(mountpoint)
    mount(mountpoint, mount_options)


def mount(mountpoint: Path, mount_options: str = "loop") -> None:
    """Mount the image that belongs to `mountpoint`."""
    _run("mount", "-o", mount_options, str(_image_of(mountpoint)), str(mountpoint))


def unmount(mountpoint: Path, *, force: bool = False) -> None:
    """Unmount it, waiting for processes that are just ending; with `force`, whoever still uses it.

    Once this returns, nothing in the machine's memory is left of it.
    """
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while _is_busy(mountpoint):
        if time.monotonic() > deadline:
            if force:
                _run("umount", "--lazy", str(mountpoint))
            raise TimeoutError(f"{mountpoint} is in use")
        time.sleep(0.02)
    while _is_attached(_image_of(mountpoint)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{mountpoint} is still mounted in another namespace")
        time.sleep(0.02)


def _is_busy(mountpoint: Path) -> bool:
    try:
        _run("umount", str(mountpoint))
    except subprocess.CalledProcessError as error:
        if b"busy" not in error.stderr:
            raise
        return True
    return False


def _is_attached(image: Path) -> bool:
    """Whether a loop device still stands on the image: it goes with the last mount of it."""
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # it went while we looked
            if file.read_text().strip() == str(image.resolve()):
                return True
    return False


def _run(program: str, *arguments: str) -> None:
    # Mounting lives where not every user's PATH leads.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = shutil.which(program, path=path)
    assert found is not None, f"{program} is not installed"
    try:
        subprocess.run([found, *arguments], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.decode(errors="replace"))
        raise


def _image_of(mountpoint: Path) -> Path:
    return mountpoint.parent.with_suffix(".img")
