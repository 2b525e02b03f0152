"""Large files, one at a time: up in every shape, and down."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.clients import (
    KIB,
    MIB,
    Address,
    Refused,
    Stored,
    Target,
    compare,
    digest_of,
    download,
    upload_chunked,
    upload_form,
    upload_length,
    upload_patches,
)
from benchmarks.figures import Figures, at_least, at_most, figures_of_bytes
from benchmarks.processes import Watch
from benchmarks.rows.row import Prepare, Row, Running, Scale, Subjects, started
from benchmarks.systems import ARTICLE, COPYPARTY, NGINX, OURS, STARLETTE, TUS_NODE, System

Upload = Callable[[Address, Target, int], Stored]

EVERYBODY = (OURS, NGINX, STARLETTE, COPYPARTY, ARTICLE)
WARM_SIZE = MIB + 3 * KIB


def uploads(upload: Upload, systems: Sequence[System]) -> Prepare:
    """Return how to prepare uploads in one shape to each system."""

    @contextmanager
    def prepare(scale: Scale) -> Iterator[Subjects]:
        with started(scale, systems) as found:
            for each in found.values():
                warm_up(each, upload)
            yield {name: partial(measure_upload, found[name], upload, scale.size) for name in found}

    return prepare


def warm_up(running: Running, upload: Upload) -> None:
    """Upload a little; what is then downloaded must be the same."""
    for count in range(3):
        stored = store(running, upload, WARM_SIZE, f"warm-{count}")
        compare(running.server.address, stored.path, WARM_SIZE)
    running.clean()


def store(running: Running, upload: Upload, size: int, name: str) -> Stored:
    """Upload; Refused where a digest is told and is not that of what was sent."""
    stored = upload(running.server.address, running.system.target(name), size)
    if stored.digest not in {None, digest_of(size)}:
        raise Refused(f"{running.system.name} has {stored.digest}, not {digest_of(size)}")
    if running.system is OURS and stored.digest is None:
        raise Refused("an upload of ours was answered without a digest")
    return stored


def measure_upload(running: Running, upload: Upload, size: int) -> Figures:
    """Upload once to a disk that has nothing else to write, and make room again."""
    digest_of(size)  # remembered, so that no time goes into it later
    os.sync()
    try:
        with Watch(running.server) as watch:
            store(running, upload, size, "large")
    finally:
        running.clean()
    return figures_of_bytes(watch, size)


@contextmanager
def downloads(scale: Scale) -> Iterator[Subjects]:
    """Prepare downloads of a file that the page cache holds."""
    with started(scale, EVERYBODY) as found:
        subjects = {}
        for name, running in found.items():
            stored = store(running, upload_length, scale.size, "large")
            compare(running.server.address, stored.path, scale.size)
            subjects[name] = partial(measure_download, running, stored, scale.size)
        os.sync()
        yield subjects


def measure_download(running: Running, stored: Stored, size: int) -> Figures:
    """Download once."""
    with Watch(running.server) as watch:
        download(running.server.address, stored.path, size)
    return figures_of_bytes(watch, size)


@contextmanager
def forms(scale: Scale) -> Iterator[Subjects]:
    """Prepare forms to each system that takes them, and our own chunked upload beside them."""
    with started(scale, (OURS, STARLETTE, COPYPARTY)) as found:
        for running in found.values():
            warm_up(running, upload_form)
        acts = {
            name: partial(measure_upload, found[name], upload_form, scale.size) for name in found
        }
        if OURS.name in found:
            acts["ours, chunked"] = partial(
                measure_upload, found[OURS.name], upload_chunked, scale.size
            )
        yield acts


@contextmanager
def patches(scale: Scale) -> Iterator[Subjects]:
    """Prepare uploads in PATCHes by tus, and our own upload in one request beside them."""
    with started(scale, (OURS, TUS_NODE)) as found:
        acts = {}
        for name, running in found.items():
            upload_patches(running.server.address, "/uploads", WARM_SIZE)
            running.clean()
            acts[name] = partial(measure_patches, running, scale.size)
        if OURS.name in found:
            acts["ours, one request"] = partial(
                measure_upload, found[OURS.name], upload_length, scale.size
            )
        yield acts


def measure_patches(running: Running, size: int) -> Figures:
    """Upload once in PATCHes of 8 MiB, and make room again."""
    os.sync()
    try:
        with Watch(running.server) as watch:
            upload_patches(running.server.address, "/uploads", size)
    finally:
        running.clean()
    return figures_of_bytes(watch, size)


ROWS = (
    Row(
        "upload-chunked",
        "upload, chunked",
        "GiB",
        uploads(upload_chunked, EVERYBODY),
        (at_least(0.8, "nginx"), at_most(1.8, "nginx")),
    ),
    Row(
        "upload-length",
        "upload, Content-Length",
        "GiB",
        uploads(upload_length, EVERYBODY),
        (at_least(0.6, "nginx"), at_most(2.3, "nginx")),
    ),
    Row(
        "upload-form",
        "upload, form",
        "GiB",
        forms,
        (at_least(0.8, "ours, chunked"),),
        "ours, chunked",
    ),
    Row(
        "upload-patches",
        "upload, 8 MiB PATCHes of tus",
        "GiB",
        patches,
        (at_least(1.5, "tus-node"), at_least(0.85, "ours, one request")),
        "tus-node",
    ),
    Row(
        "download",
        "download",
        "GiB",
        downloads,
        (at_least(1.0, "nginx"), at_most(1.2, "nginx")),
    ),
)
