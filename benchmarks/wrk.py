"""Small requests by wrk: one thread, 32 connections, and what came of it."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients import Address, Refused
from benchmarks.systems import find_program

LOADS = Path(__file__).parent / "loads"
CONNECTIONS = 32
TIMEOUT_SECONDS = 30  # a slow answer is slow, and no failure


@dataclass(frozen=True)
class Load:
    """What wrk is to ask for: a path, and a script of `loads/` with its arguments."""

    path: str = "/"
    script: str = "report.lua"
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """What a run came to; p50 and p99 in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


def run_wrk(address: Address, load: Load, seconds: float) -> Report:
    """Ask for `seconds`, rounded up to whole ones; Refused where a request failed."""
    url = f"http://{address[0]}:{address[1]}{load.path}"
    time = (f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_SECONDS}s")
    flags = ("-t1", f"-c{CONNECTIONS}", *time, "-s", load.script)
    done = subprocess.run(
        [find_program("wrk"), *flags, url, "--", *load.arguments],
        cwd=LOADS,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stderr}")
    return parse_report(done.stdout)


def parse_report(output: str) -> Report:
    """Parse what `loads/report.lua` printed; Refused where not every request was answered well."""
    line = next((each for each in output.splitlines() if each.startswith("report ")), None)
    if line is None:
        raise Refused(f"wrk reported nothing: {output}")
    report = json.loads(line.removeprefix("report "))
    failed = {kind: count for kind, count in report["errors"].items() if count}
    if failed or not report["requests"]:
        raise Refused(f"of {report['requests']} requests failed: {failed}")
    return Report(
        report["requests"], report["duration"] / 1e6, report["p50"] / 1e3, report["p99"] / 1e3
    )
