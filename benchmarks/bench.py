"""Measures the service beside its peers and writes down what came of it.

Everything, in less than a quarter of an hour:     make bench
Some rows of some systems, while optimising:
    python -m benchmarks.bench --only upload-chunked,small-get --systems ours,nginx --rounds 3
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clients import MIB, Refused
from benchmarks.figures import Figures, Rounds
from benchmarks.results import Result, print_result, write_results
from benchmarks.rows import ROWS
from benchmarks.rows.row import Row, Scale

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where a bar was missed or a row failed."""
    flags = parse_flags(arguments)
    with tempfile.TemporaryDirectory(prefix="file-service-bench-", dir=flags.dir) as name:
        scale = make_scale(flags, Path(name))
        results = []
        for row in flags.only:
            results.append(run_row(row, scale))
            print_result(results[-1])
    write_results(results, flags.output, is_quick=flags.quick)
    return 0 if all(result.is_kept for result in results) else 1


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse what is to be measured, and how."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", type=int, default=1024, help="MiB of a large file (1024)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--seconds", type=float, default=4, help="of small requests, each time (4)")
    parser.add_argument(
        "--only",
        type=parse_rows,
        default=list(ROWS.values()),
        metavar="ROW,...",
        help=", ".join(ROWS),
    )
    parser.add_argument("--systems", type=parse_names, default=(), metavar="NAME,...")
    parser.add_argument("--quick", action="store_true", help="next to nothing: does it work?")
    parser.add_argument("--dir", type=Path, help="where files are kept meanwhile ($TMPDIR)")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
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
    failure = ""
    try:
        with row.prepare(scale) as subjects:
            for _ in range(scale.rounds):
                for name, act in subjects.items():
                    rounds.setdefault(name, []).append(act())
    except (Refused, RuntimeError, OSError) as error:
        failure = f"{type(error).__name__}: {error}"
    return Result(row, complete(rounds), time.monotonic() - started, load, failure)


def complete(rounds: Rounds) -> Rounds:
    """Leave out a last round that not everybody has finished."""
    length = min(map(len, rounds.values()), default=0)
    return {name: runs[:length] for name, runs in rounds.items()}


if __name__ == "__main__":
    sys.exit(main())
