"""What ten million rows and a million files change."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.clients import Refused, ask, upload_length
from benchmarks.figures import Figures, at_least, at_most, figures_of_memory
from benchmarks.filling import choose_ids, fill_catalogue, link_blobs, make_id
from benchmarks.processes import Watch
from benchmarks.rows.bulk import store
from benchmarks.rows.row import Row, Running, Scale, Subjects
from benchmarks.rows.small import SMALL, make_body, measure_load, measure_posts
from benchmarks.systems import OURS, running
from benchmarks.wrk import Load

FEW_ROWS = 1_000
MANY_ROWS = 10_000_000
ASKED = 20_000  # different files of the many; too many for any small cache to hold
FILES = 1_000_000
QUICK_ROWS = 20_000
READY_SECONDS = 60


def make_store(folder: Path, rows: int, ids: Sequence[str] | range) -> None:
    """Fill a catalogue with rows and a store with the blobs of these ids, or of all of a range."""
    with running(OURS, folder) as server:
        service = Running(OURS, server)
        model = service.file_of(store(service, upload_length, SMALL, "small").path)
    fill_catalogue(folder / "catalogue.db", rows)
    named = (make_id(each, rows) if isinstance(each, int) else each for each in ids)
    link_blobs(folder / "files" / "blobs", model, named)
    os.sync()


@contextmanager
def catalogues(scale: Scale) -> Iterator[Subjects]:
    """Prepare GETs and POSTs with few rows and with many."""
    many = QUICK_ROWS if scale.is_quick else MANY_ROWS
    body = make_body(scale.folder)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=scale.folder)))
        gets, posts = {}, {}
        for size, asked in (("1,000 rows", FEW_ROWS), ("10,000,000 rows", ASKED)):
            rows = FEW_ROWS if asked == FEW_ROWS else many
            ids = choose_ids(min(asked, rows), rows)
            make_store(folder / size, rows, ids)
            service = Running(OURS, stack.enter_context(running(OURS, folder / size)))
            load = load_of(folder / f"{size}.txt", ids)
            fewer = load_of(folder / f"{size}, fewer.txt", ids[:FEW_ROWS])
            measure_load(service, load, 1)
            gets[f"GET, {size}"] = partial(measure_load, service, load, scale.seconds)
            if rows == many:
                fewer_asked = partial(measure_load, service, fewer, scale.seconds)
                gets[f"GET, 1,000 of {size}"] = fewer_asked
            looked_up = load_of(folder / f"{size}, ranges.txt", ids, "bytes=0-")
            gets[f"range, {size}"] = partial(measure_load, service, looked_up, scale.seconds)
            posts[f"POST, {size}"] = partial(measure_posts, service, body, scale.seconds)
        yield gets | posts  # what is compared stands side by side, also in time


def load_of(paths: Path, ids: Sequence[str], byte_range: str = "") -> Load:
    """Return a load of GETs of these ids, written into a file; a range is always looked up."""
    paths.write_text("".join(f"/files/{each}/\n" for each in ids))
    return Load("/", "paths.lua", (str(paths), byte_range))


@contextmanager
def starts(scale: Scale) -> Iterator[Subjects]:
    """Prepare starts on an empty store and on one of a million files."""
    files = QUICK_ROWS if scale.is_quick else FILES
    with TemporaryDirectory(dir=scale.folder) as name:
        empty, full = Path(name, "empty"), Path(name, "full")
        with running(OURS, empty):
            pass
        make_store(full, files, range(files))
        yield {"ours, empty": partial(measure_start, empty), "ours": partial(measure_start, full)}


def measure_start(folder: Path) -> Figures:
    """Start the service; return how long it took until it said that it is ready."""
    started = time.perf_counter()
    with running(OURS, folder) as server, Watch(server) as watch:
        while not is_ready(server.address):
            if time.perf_counter() - started > READY_SECONDS:
                raise Refused("the service is not ready")
            time.sleep(0.005)
        seconds = time.perf_counter() - started
    return {**figures_of_memory(watch), "seconds": seconds}


def is_ready(address: tuple[str, int]) -> bool:
    """Whether the service says that it is ready."""
    try:
        ask(address, "GET", "/readyz", 200)
    except Refused:
        return False
    return True


FEW_GETS, MANY_GETS = "GET, 1,000 rows", "GET, 10,000,000 rows"
FEW_ASKED = "GET, 1,000 of 10,000,000 rows"
FEW_RANGES, MANY_RANGES = "range, 1,000 rows", "range, 10,000,000 rows"
FEW_POSTS, MANY_POSTS = "POST, 1,000 rows", "POST, 10,000,000 rows"

ROWS = (
    Row(
        "rows",
        "4 KiB, few rows and many",
        "1,000 requests",
        catalogues,
        (
            at_most(1.2, FEW_GETS, subject=MANY_GETS),
            at_least(round(1 / 1.2, 2), FEW_GETS, subject=MANY_GETS),
            at_most(1.2, FEW_GETS, subject=FEW_ASKED),
            at_least(round(1 / 1.2, 2), FEW_GETS, subject=FEW_ASKED),
            at_most(1.2, FEW_RANGES, subject=MANY_RANGES),
            at_least(round(1 / 1.2, 2), FEW_RANGES, subject=MANY_RANGES),
            at_most(1.2, FEW_POSTS, subject=MANY_POSTS),
            at_least(round(1 / 1.2, 2), FEW_POSTS, subject=MANY_POSTS),
        ),
        "",
        is_slow=True,
    ),
    Row(
        "start",
        "start to ready, 1,000,000 files",
        "",
        starts,
        (at_most(2, metric="seconds"),),
        is_slow=True,
    ),
)
