"""How much memory, time and CPU the server needs for 1 GiB up and down, and for 100 at once."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients import (
    FRAME,
    GIB,
    KIB,
    MIB,
    Address,
    Refused,
    Stored,
    ask,
    compare,
    digest_of,
    upload_chunked,
    upload_form,
    upload_length,
    upload_together,
)
from benchmarks.processes import Server, Watch
from benchmarks.results import format_table
from benchmarks.systems import OURS, running

AT_ONCE = 100
EACH = 10 * MIB

TARGET = OURS.target("large.bin")


@dataclass(frozen=True)
class Work:
    """Something to do, in bytes, and by how many MiB the server may grow meanwhile.

    `act` returns the paths of the files that are to go afterwards.
    """

    name: str
    size: int
    bar: int
    act: Callable[[Address], Sequence[str]]


@contextmanager
def service(folder: Path, database_url: str) -> Iterator[Server]:
    """Run a service on `folder`, warmed up by small requests."""
    flags = ("--database-url", database_url) if database_url else ()
    with running(OURS, folder, *flags) as server:
        for _ in range(5):
            for upload in (upload_chunked, upload_length, upload_form):
                path = check(upload(server.address, TARGET, KIB), digest_of(KIB))
                compare(server.address, path, KIB)
                delete(server.address, path)
        yield server


def check(stored: Stored, digest: str) -> str:
    """Return the path of an upload; Refused where the bytes did not arrive whole."""
    if stored.digest != digest:
        raise Refused(f"the service has {stored.digest}, but {digest} was sent")
    return stored.path


def delete(address: Address, path: str) -> None:
    """DELETE a file."""
    ask(address, "DELETE", path, 204)


def make_works(size: int, stored: str) -> Iterator[Work]:
    """Yield what is measured; `stored` is the path of a file of `size` bytes."""
    amount = f"{size // MIB} MiB" if size % GIB else f"{size // GIB} GiB"
    shapes = {"chunked": upload_chunked, "Content-Length": upload_length, "form": upload_form}
    for name, upload in shapes.items():

        def put(to: Address, upload: Callable[..., Stored] = upload) -> Sequence[str]:
            return [check(upload(to, TARGET, size), digest_of(size))]

        yield Work(f"{amount} up, {name}", size, 48, put)

    def get(address: Address) -> Sequence[str]:
        compare(address, stored, size)
        return []

    yield Work(f"{amount} down", size, 48, get)

    def put_many(address: Address) -> Sequence[str]:
        found = upload_together(address, [TARGET] * AT_ONCE, EACH)
        return [check(each, digest_of(EACH, FRAME)) for each in found]

    yield Work(f"{AT_ONCE} of {EACH // MIB} MiB up at once", AT_ONCE * EACH, 96, put_many)


def measure(server: Server, work: Work) -> Watch:
    """Do the work on a warm server and return what it took; then remove its files."""
    with Watch(server) as watch:
        paths = work.act(server.address)
    for path in paths:
        delete(server.address, path)
    return watch


def format_line(work: Work, took: Watch) -> Sequence[str]:
    """Return the line of a work in the table."""
    return (
        work.name,
        f"{took.growth / MIB:.1f}",
        str(work.bar),
        "ok" if took.growth <= work.bar * MIB else "MISSED",
        f"{took.seconds:.1f}",
        f"{took.cpu_seconds / (work.size / GIB):.2f}",
    )


def measure_all(folder: Path, database_url: str, size: int) -> bool:
    """Print the table, each work on a server of its own; return whether every bar was kept."""
    digest_of(size)  # remembered, so that no time goes into them later
    digest_of(EACH, FRAME)
    with service(folder, database_url) as server:
        stored = upload_length(server.address, TARGET, size).path
    lines = []
    for work in make_works(size, stored):
        with service(folder, database_url) as server:
            lines.append(format_line(work, measure(server, work)))
    with service(folder, database_url) as server:
        delete(server.address, stored)
    head = ("work", "growth, MiB", "bar, MiB", "verdict", "seconds", "server CPU s per GiB")
    print(format_table(head, lines))
    return all("MISSED" not in line for line in lines)


def main() -> int:
    """Measure, and exit with 1 where a bar was missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB up and down (1024)")
    parser.add_argument("--database-url", default="", help="a migrated catalogue (an SQLite file)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="file-service-memory-") as name:
        return 0 if measure_all(Path(name), flags.database_url, flags.size * MIB) else 1


if __name__ == "__main__":
    sys.exit(main())
