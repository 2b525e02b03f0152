"""What fails on purpose: system calls of a running process, transfers, the blocks of a disk."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.disks import unmount

_ATTACH_SECONDS = 10

# Every transfer is one of at most so many bytes, honestly done and honestly told.
_SHORT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/types.h>
#define SHORT(name, type) \\
    ssize_t name(int fd, type data, size_t size, off_t offset) { \\
        static ssize_t (*real)(int, type, size_t, off_t); \\
        if (!real) real = dlsym(RTLD_NEXT, #name); \\
        return real(fd, data, size > 5096 ? 4096 + size % 1000 : size, offset); \\
    }
SHORT(pwrite, const void *)
SHORT(pwrite64, const void *)
SHORT(pread, void *)
SHORT(pread64, void *)
"""


@contextmanager
def injected(pid: int, log: Path, *faults: str, paths: tuple[Path, ...] = ()) -> Iterator[None]:
    """Have system calls of a process fail while the block runs; `log` gets each that was traced.

    A fault is strace's `CALL:error=NAME`; where paths are given, only calls on those fail.
    strace counts `when=` for each thread by itself.
    """
    calls = {name for fault in faults for name in fault.partition(":")[0].split(",")}
    command = ["strace", "-f", "-qq", "-y", "-o", str(log), "-p", str(pid)]
    command += ["-e", f"trace={','.join(sorted(calls))}", "-e", "signal=none"]
    command += [part for fault in faults for part in ("-e", f"inject={fault}")]
    command += [part for path in paths for part in ("-P", str(path))]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + _ATTACH_SECONDS
        while not _is_traced(pid):
            assert strace.poll() is None, strace.communicate()[1].decode()
            assert time.monotonic() < deadline, "strace did not attach"
            time.sleep(0.01)
        yield
    finally:
        strace.send_signal(signal.SIGTERM)
        strace.communicate(timeout=_ATTACH_SECONDS)


def _is_traced(pid: int) -> bool:
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return all("TracerPid:\t0\n" not in (each / "status").read_text() for each in threads)
    except FileNotFoundError:  # a thread ended meanwhile
        return False


def make_short_transfers(folder: Path) -> Path:
    """Compile the library whose preloading makes every positioned read and write a short one."""
    source, library = folder / "short.c", folder / "short.so"
    source.write_text(_SHORT)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class FailingDisk:
    """A mounted file system, and the file at whose sight its blocks begin to fail."""

    mountpoint: Path
    image: Path
    trigger: Path

    def mount(self) -> None:
        """Mount it, as at the beginning."""
        _run("mount", "-o", "loop", str(self.image), str(self.mountpoint))

    def forget(self, path: Path) -> None:
        """Drop what the kernel remembers of a file on it, so that it must be read again."""
        for each in (path, self.image):
            fd = os.open(each, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


@contextmanager
def failing_disk(folder: Path, direction: str) -> Iterator[FailingDisk]:
    """Mount an ext4 of which every `pread` or `pwrite` of a block fails once it is told to."""
    folder.mkdir()
    plain, sock, trigger = folder / "plain.img", folder / "sock", folder / "trigger"
    fuse, mountpoint = folder / "fuse", folder / "disk"
    fuse.mkdir()
    mountpoint.mkdir()
    with plain.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", str(plain))
    how = [f"error-{direction}=EIO", "error-rate=100%", f"error-file={trigger}"]
    with ExitStack() as stack:
        stack.enter_context(
            _running("nbdkit", "-f", "-U", str(sock), "--filter=error", "file", str(plain), *how)
        )
        _wait_for(sock)
        stack.enter_context(_running("nbdfuse", str(fuse / "disk.img"), "--unix", str(sock)))
        stack.callback(_run, "fusermount3", "-u", str(fuse))
        _wait_for(fuse / "disk.img")
        made = FailingDisk(mountpoint, fuse / "disk.img", trigger)
        made.mount()
        stack.callback(unmount, mountpoint, force=True)
        stack.callback(trigger.unlink, missing_ok=True)
        yield made


@contextmanager
def _running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _ATTACH_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.01)


def _run(*command: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": path})
