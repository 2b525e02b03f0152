"""Files of 4 KiB, 32 connections at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.clients import KIB, upload_length
from benchmarks.figures import Figures, at_least, figures_of_requests
from benchmarks.processes import Watch
from benchmarks.rows.bulk import EVERYBODY, store
from benchmarks.rows.row import Row, Running, Scale, Subjects, fresh, started
from benchmarks.systems import OURS
from benchmarks.wrk import Load, run_wrk

SMALL = 4 * KIB

_runs = count()


def measure_load(running: Running, load: Load, seconds: float) -> Figures:
    """Have wrk ask for `seconds`."""
    with Watch(running.server) as watch:
        report = run_wrk(running.server.address, load, seconds)
    return figures_of_requests(watch, report)


@contextmanager
def gets(scale: Scale) -> Iterator[Subjects]:
    """Prepare GETs of one file."""
    with started(scale, EVERYBODY) as found:
        subjects = {}
        for name, running in found.items():
            stored = store(running, upload_length, SMALL, "small")
            load = Load(stored.path)
            measure_load(running, load, 1)
            subjects[name] = partial(measure_load, running, load, scale.seconds)
        yield subjects


@contextmanager
def posts(scale: Scale) -> Iterator[Subjects]:
    """Prepare uploads of many files."""
    with started(scale, EVERYBODY) as found:
        body = make_body(scale.folder)
        for running in found.values():
            measure_posts(running, body, 1)
        yield {
            name: partial(measure_posts, running, body, scale.seconds)
            for name, running in found.items()
        }


def make_body(folder: Path) -> Path:
    """Return a file of 4 KiB that is what wrk sends."""
    body = folder / "body"
    body.write_bytes(os.urandom(SMALL))
    return body


def measure_posts(running: Running, body: Path, seconds: float) -> Figures:
    """Upload for `seconds` to a disk that has nothing else to write.

    What was uploaded stays to the row's end: a file system that has just had thousands of files
    deleted looks long for room for a new one (ext4 without a journal: 1 ms instead of 0.03).
    """
    target = running.system.target(f"{next(_runs)}-")
    if target.method == "PUT":  # each under a name of its own, never used before
        load = Load("/", "put.lua", (str(body), target.path))
    else:
        load = Load(target.path, "post.lua", (str(body),))
    os.sync()
    return measure_load(running, load, seconds)


@contextmanager
def workers(scale: Scale) -> Iterator[Subjects]:
    """Prepare GETs of one file from one worker and from two."""
    with fresh(scale, OURS) as one, fresh(scale, OURS, "--workers", "2") as two:
        subjects = {}
        for name, running in (("ours, one worker", one), ("ours", two)):
            stored = store(running, upload_length, SMALL, "small")
            load = Load(stored.path)
            measure_load(running, load, 1)
            subjects[name] = partial(measure_load, running, load, scale.seconds)
        yield subjects


ROWS = (
    Row(
        "small-get",
        "4 KiB GET",
        "1,000 requests",
        gets,
        (at_least(0.3, "nginx"), at_least(5, "starlette"), at_least(3, "copyparty")),
    ),
    Row(
        "small-post",
        "4 KiB POST",
        "1,000 requests",
        posts,
        (at_least(5, "article"), at_least(1.5, "starlette")),
    ),
    Row(
        "two-workers",
        "4 KiB GET, two workers",
        "1,000 requests",
        workers,
        (at_least(0.9, "ours, one worker", metric="per_cpu"),),
        "ours, one worker",
    ),
)
