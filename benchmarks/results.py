"""What a run of the benchmarks leaves behind: a Markdown table, a JSON file and plots."""

import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.figures import Rounds, Verdict, judge, middle, ratio
from benchmarks.rows.row import Row

ROOT = Path(__file__).parents[1]
PACKAGES = ("aiohttp", "uvloop", "starlette", "uvicorn", "copyparty", "aiofile", "sqlalchemy")
PEERS = ("nginx", "starlette", "copyparty", "article", "tus-node")
MARKS = ("<!-- last figures -->", "<!-- end of last figures -->")
COLUMNS = {"peak": "peak, MiB", "growth": "growth, MiB", "p50": "p50, ms", "p99": "p99, ms"}


@dataclass(frozen=True)
class Result:
    """A row, and all that was measured in it."""

    row: Row
    rounds: Rounds
    seconds: float
    load: float  # of the machine, before
    failures: Mapping[str, str] = field(default_factory=dict)  # by who failed

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """Every bar of the row with its figure."""
        return [judge(bar, self.rounds) for bar in self.row.bars]

    @property
    def has_failed(self) -> bool:
        """Whether anybody but a peer has: that a peer breaks under a load is a figure, too."""
        return any(not name.startswith(PEERS) for name in self.failures)

    @property
    def is_kept(self) -> bool:
        """Whether nothing of ours failed and no bar was missed."""
        return not self.has_failed and all(each.word != "missed" for each in self.verdicts)


# --- the tables ---


def format_number(value: float | None) -> str:
    """Return three significant digits, more for large numbers, nothing for None."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose first columns are of text."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def format_verdicts(results: Sequence[Result]) -> str:
    """Return the table of all bars."""
    lines: list[Sequence[str]] = []
    for result in results:
        lines.extend([result.row.title, name, "", "failed"] for name in result.failures)
        for verdict in result.verdicts:
            figure = format_number(verdict.figure) + (" ×" if verdict.bar.over else "")
            shown = figure if verdict.figure is not None else ""
            lines.append([result.row.title, verdict.bar.text, shown, verdict.word])
    return format_table(("work", "bar", "figure", "verdict"), lines, left=4)


def format_figures(result: Result) -> str:
    """Return the table of who took how much for one row, beside our own."""
    unit = "MiB/s" if result.row.unit == "GiB" else "requests/s"
    heads = {"rate": unit, "cpu": f"CPU s per {result.row.unit}", "seconds": "seconds", **COLUMNS}
    shown = [
        metric
        for metric in heads
        if any(metric in run for runs in result.rounds.values() for run in runs)
        and not (metric == "seconds" and result.row.unit)
    ]
    compared = ("rate", "cpu") if "rate" in shown and "ours" in result.rounds else ()
    words = ("rate", "CPU") if compared else ()
    lines = []
    for name, runs in result.rounds.items():
        cells = [format_number(middle(runs, metric)) for metric in shown]
        beside = [
            "" if name == "ours" else format_number(ratio(result.rounds, metric, "ours", name))
            for metric in compared
        ]
        lines.append([name, *cells, *beside])
    head = ["who", *(heads[metric] for metric in shown), *(f"ours ÷ it, {each}" for each in words)]
    return format_table(head, lines)


def format_failures(result: Result) -> Sequence[str]:
    """Return a line for each who failed."""
    return [f"Failed: {name}: {words}\n" for name, words in result.failures.items()]


def print_result(result: Result) -> None:
    """Print a row as soon as it is known."""
    print(f"\n## {result.row.title} ({result.seconds:.0f} s, load before: {result.load:.1f})\n")
    print("".join(format_failures(result)))
    print(format_figures(result))
    for verdict in result.verdicts:
        print(f"{verdict.word}: {verdict.bar.text}: {format_number(verdict.figure)}")
    print(flush=True)


# --- the files ---


def write_results(results: Sequence[Result], folder: Path, *, is_quick: bool) -> None:
    """Write `results.md`, `results.json` and the plots into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    about = describe_run()
    record = {
        **about,
        "is_quick": is_quick,
        "rows": [_record(result) for result in results],
    }
    (folder / "results.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(format_page(results, about))


def show_in_readme(results: Sequence[Result], readme: Path) -> None:
    """Exchange what stands between the two marks of the page for the last verdicts."""
    before, rest = readme.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    shown = f"{format_about(describe_run())}\n\n{format_verdicts(results)}"
    readme.write_text(f"{before}{MARKS[0]}\n\n{shown}\n\n{MARKS[1]}{after}")


def format_about(about: Mapping[str, Any]) -> str:
    """Return in a line when, where and of what the figures are."""
    machine = ", ".join(about["machine"].values())
    versions = ", ".join(f"{name} {text}" for name, text in about["versions"].items() if text)
    return f"{about['date']}, commit `{about['commit']}`, {machine}; {versions}."


def format_page(results: Sequence[Result], about: Mapping[str, Any]) -> str:
    """Return all tables as one page."""
    parts = ["# Figures", format_about(about), format_verdicts(results)]
    for result in results:
        parts.append(f"## {result.row.title}")
        parts.extend(format_failures(result))
        parts.append(format_figures(result))
    return "\n\n".join(parts) + "\n"


def _record(result: Result) -> Mapping[str, Any]:
    return {
        "name": result.row.name,
        "title": result.row.title,
        "unit": result.row.unit,
        "seconds": result.seconds,
        "load_before": result.load,
        "failures": result.failures,
        "rounds": result.rounds,
        "bars": [
            {**asdict(each.bar), "text": each.bar.text, "figure": each.figure, "verdict": each.word}
            for each in result.verdicts
        ],
    }


def describe_run() -> Mapping[str, Any]:
    """Return when, where and of what the figures are."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "machine": {
            "processors": f"{_cpu_count()} × {_processor()}",
            "system": f"Linux {platform.release().partition('-')[0]}",
            "python": f"Python {platform.python_version()}",
        },
        "versions": {
            **{name: _version(name) for name in PACKAGES},
            "nginx": _output("nginx", "-v").rpartition("/")[2],
            "wrk": _output("wrk", "-v").partition(" [")[0].rpartition("/")[2],
            "node": _output("node", "--version"),
            **_npm_versions(),
        },
    }


def _cpu_count() -> int:
    return len(Path("/proc/cpuinfo").read_text().split("processor\t")) - 1


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _npm_versions() -> Mapping[str, str]:
    manifest = json.loads((ROOT / "benchmarks/peers/package.json").read_text())
    return dict(manifest["dependencies"])


def _output(program: str, *arguments: str) -> str:
    """Return the first line that a program says, nothing where it is not there."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if found is None:
        return ""
    done = subprocess.run([found, *arguments], check=False, capture_output=True, text=True)
    return next(iter((done.stdout + done.stderr).splitlines()), "")
