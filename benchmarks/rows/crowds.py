"""Many clients at once, and what they cost in memory; each run has a server of its own."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.clients import (
    FRAME,
    MIB,
    Refused,
    connect,
    digest_of,
    receive_body,
    receive_head,
    send_head,
    upload_length,
    upload_together,
)
from benchmarks.figures import Figures, at_most, figures_of_bytes, figures_of_memory
from benchmarks.processes import Watch
from benchmarks.rows.bulk import EVERYBODY, store, warm_up
from benchmarks.rows.row import Prepare, Row, Running, Scale, Subjects, fresh, installed
from benchmarks.rows.small import SMALL
from benchmarks.systems import OURS, System

AT_ONCE = 200
EACH = 5 * MIB
IDLE = 1000
FEW = 20  # to see that it works


def of_fresh(measure: Callable[[Running, Scale], Figures]) -> Prepare:
    """Return how to prepare runs that each have a new server.

    What an earlier run left in its memory would hide what the next one takes.
    """

    def act(scale: Scale, system: System) -> Figures:
        with fresh(scale, system) as running:
            warm_up(running, upload_length)
            return measure(running, scale)

    @contextmanager
    def prepare(scale: Scale) -> Iterator[Subjects]:
        yield {each.name: partial(act, scale, each) for each in installed(scale, EVERYBODY)}

    return prepare


def measure_together(running: Running, scale: Scale) -> Figures:
    """Upload many files at once."""
    count = FEW if scale.is_quick else AT_ONCE
    targets = [running.system.target(f"file-{number}") for number in range(count)]
    os.sync()
    with Watch(running.server) as watch:
        stored = upload_together(running.server.address, targets, EACH)
    allowed = {digest_of(EACH, FRAME)} if running.system is OURS else {None}
    if {each.digest for each in stored} != allowed:
        raise Refused(f"{running.system.name} has other digests than were sent")
    return figures_of_bytes(watch, count * EACH)


def measure_idle(running: Running, scale: Scale) -> Figures:
    """Open connections that ask once and then keep quiet."""
    stored = store(running, upload_length, SMALL, "small")
    with ExitStack() as stack, Watch(running.server) as watch:
        for _ in range(FEW if scale.is_quick else IDLE):
            sock = stack.enter_context(connect(running.server.address))
            send_head(sock, "GET", stored.path)
            receive_body(sock, receive_head(sock, 200))
    return figures_of_memory(watch)


ROWS = (
    Row(
        "together",
        "200 uploads of 5 MiB at once",
        "GiB",
        of_fresh(measure_together),
        (at_most(64, metric="growth"),),
        is_slow=True,
    ),
    Row(
        "idle",
        "1,000 idle connections",
        "",
        of_fresh(measure_idle),
        (at_most(32, metric="growth"),),
        is_slow=True,
    ),
)
