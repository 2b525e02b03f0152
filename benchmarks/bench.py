"""Measures the service beside its peers and writes down what came of it.

Everything, in less than a quarter of an hour, into benchmarks/results/ and benchmarks/README.md:
    make bench
Some rows of some systems, while optimising; nothing is written unless --output names a folder:
    python -m benchmarks.bench --only upload-chunked,small-get --systems ours,nginx --rounds 3
"""

import argparse
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clients import MIB, Refused
from benchmarks.figures import Figures
from benchmarks.results import Result, print_result, show_in_readme, write_results
from benchmarks.rows import ROWS
from benchmarks.rows.row import Row, Scale, Subjects

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
SYSTEMS = "ours, nginx, starlette, copyparty, article, tus-node"
DESCRIPTORS = 16_384
FAILURES = (Refused, RuntimeError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where a row failed or, unless it was quick, a bar was missed."""
    flags = parse_flags(arguments)
    started = time.monotonic()
    allow_descriptors()
    # Servers are stopped and folders removed whatever ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="file-service-bench-", dir=flags.dir) as name:
        scale = make_scale(flags, Path(name))
        results = []
        for row in flags.only:
            results.append(run_row(row, scale))
            print_result(results[-1])
    print(f"{time.monotonic() - started:.0f} seconds in all", flush=True)
    is_whole = len(results) == len(ROWS) and not (flags.quick or flags.systems)
    if output := flags.output or (RESULTS if is_whole else None):
        write_results(results, output, is_quick=flags.quick)
        draw(results, output)
    if is_whole and not flags.output:
        show_in_readme(results, README)
    if flags.quick:
        return int(any(result.has_failed for result in results))
    return int(not all(result.is_kept for result in results))


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse what is to be measured, and how."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", type=int, default=1024, help="MiB of a large file (1024)")
    parser.add_argument("--rounds", type=int, default=4, help="how often each is measured (4)")
    parser.add_argument("--seconds", type=float, default=3, help="of small requests, each time (3)")
    parser.add_argument(
        "--only",
        type=parse_rows,
        default=list(ROWS.values()),
        metavar="ROW,...",
        help=", ".join(ROWS),
    )
    parser.add_argument("--systems", type=parse_names, default=(), metavar="NAME,...", help=SYSTEMS)
    parser.add_argument("--quick", action="store_true", help="next to nothing: does it work?")
    parser.add_argument("--dir", type=Path, help="where files are kept meanwhile ($TMPDIR)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="of results")
    return parser.parse_args(arguments)


def parse_names(text: str) -> Sequence[str]:
    """Split names at commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_rows(text: str) -> Sequence[Row]:
    """Return the rows of these names."""
    names = parse_names(text)
    if unknown := set(names) - set(ROWS):
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(sorted(unknown))}")
    return [ROWS[name] for name in names]


def make_scale(flags: argparse.Namespace, folder: Path) -> Scale:
    """Return how much is done."""
    if flags.quick:
        return Scale(folder, 4 * MIB, 1, 1, is_quick=True, chosen=flags.systems)
    return Scale(folder, flags.size * MIB, flags.seconds, flags.rounds, chosen=flags.systems)


def run_row(row: Row, scale: Scale) -> Result:
    """Measure everybody once, then everybody once more, so that all meet the same noise."""
    print(f"{row.title} …", file=sys.stderr, flush=True)
    started, load = time.monotonic(), os.getloadavg()[0]
    rounds: dict[str, list[Figures]] = {}
    failures: dict[str, str] = {}
    try:
        with row.prepare(scale) as subjects:
            for _ in range(row.count_rounds(scale)):
                take_turns(subjects, rounds, failures)
    except FAILURES as error:
        failures["all"] = f"{type(error).__name__}: {error}"
    return Result(row, rounds, time.monotonic() - started, load, failures)


def take_turns(
    subjects: Subjects, rounds: dict[str, list[Figures]], failures: dict[str, str]
) -> None:
    """Measure everybody once; who fails is out, and keeps nobody else from being measured."""
    for name, act in subjects.items():
        if name not in failures:
            try:
                rounds.setdefault(name, []).append(act())
            except FAILURES as error:
                failures[name] = f"{type(error).__name__}: {error}"
                del rounds[name]


def draw(results: Sequence[Result], folder: Path) -> None:
    """Draw the plots where what draws them is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed", flush=True)
    else:
        importlib.import_module("benchmarks.plots").draw_all(results, folder)


def allow_descriptors() -> None:
    """Have the clients, and the servers that inherit it, open more files than the usual 1,024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
