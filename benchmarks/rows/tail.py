"""How long small requests take while large ones keep the server and its disk busy."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.clients import MIB, download, upload_length
from benchmarks.figures import Figures, at_most
from benchmarks.rows.bulk import store
from benchmarks.rows.row import Row, Running, Scale, Subjects, started
from benchmarks.rows.small import SMALL, measure_load
from benchmarks.systems import NGINX, OURS
from benchmarks.wrk import Load

CLIENTS = 2  # that upload, and as many that download
UPLOADED = 128 * MIB
FORGET_SECONDS = 0.2


@contextmanager
def tails(scale: Scale) -> Iterator[Subjects]:
    """Prepare GETs of one file, with and without others that upload and download."""
    with started(scale, (OURS, NGINX)) as found:
        subjects = {}
        for name, running in found.items():
            load = Load(store(running, upload_length, SMALL, "small").path)
            larges = [
                store(running, upload_length, scale.size // 2, f"large-{number}").path
                for number in range(CLIENTS)
            ]
            measure_load(running, load, 1)
            subjects[f"{name}, quiet"] = partial(measure_load, running, load, scale.seconds)
            subjects[name] = partial(measure_busy, running, load, larges, scale)
        yield subjects


def measure_busy(running: Running, load: Load, larges: Sequence[str], scale: Scale) -> Figures:
    """Have wrk ask while files go up and files that no cache holds come down."""
    os.sync()  # what is dirty cannot be forgotten
    with busy(running, larges, scale):
        return measure_load(running, load, scale.seconds)


@contextmanager
def busy(running: Running, larges: Sequence[str], scale: Scale) -> Iterator[None]:
    """Keep clients at work until the block ends; raise what they raised."""
    ended = threading.Event()
    files = [running.file_of(path) for path in larges]

    def upload(number: int) -> None:
        size = min(UPLOADED, scale.size)
        while not ended.is_set():
            stored = store(running, upload_length, size, f"coming-{number}")
            running.file_of(stored.path).unlink()

    def get(path: str) -> None:
        while not ended.is_set():
            download(running.server.address, path, scale.size // 2)

    def forget() -> None:
        while not ended.wait(FORGET_SECONDS):
            forget_pages(files)

    forget_pages(files)
    with ThreadPoolExecutor(2 * CLIENTS + 1) as pool, ExitStack() as stack:
        works = [pool.submit(upload, number) for number in range(CLIENTS)]
        works += [*(pool.submit(get, path) for path in larges), pool.submit(forget)]
        stack.callback(ended.set)
        yield
        ended.set()
        for work in works:
            work.result()


def forget_pages(files: Sequence[Path]) -> None:
    """Have the kernel drop what it holds of these files, so that they come from the disk."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


ROWS = (
    Row(
        "tail",
        "4 KiB GET beside large files",
        "1,000 requests",
        tails,
        (at_most(5, "ours, quiet", metric="p99"),),
    ),
)
