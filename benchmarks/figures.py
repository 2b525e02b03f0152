"""Figures of runs, their ratios, and whether a bar was kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.clients import GIB, MIB
from benchmarks.processes import Watch
from benchmarks.wrk import Report

# What one run came to: "rate" (MiB or requests per second), "cpu" (seconds per GiB or per 1,000
# requests), "peak" and "growth" (MiB), "p50" and "p99" (milliseconds), "seconds"; not always all.
Figures = Mapping[str, float]
# All rounds of a row, by the name of who was measured.
Rounds = Mapping[str, Sequence[Figures]]

LABELS = {
    "rate": "rate",
    "cpu": "CPU",
    "per_cpu": "requests per CPU second",
    "growth": "memory growth, MiB",
    "p99": "p99",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Bar:
    """What a row must show: a figure of `subject`, or its ratio to that of `over`."""

    metric: str
    bound: float
    over: str = ""
    subject: str = "ours"
    is_floor: bool = True

    @property
    def text(self) -> str:
        """The bar in words."""
        sign = "≥" if self.is_floor else "≤"
        who = "" if self.subject == "ours" else f"{self.subject}: "
        bound = f"{self.bound:g}"
        return f"{who}{LABELS[self.metric]} {sign} {bound}" + (
            f" × {self.over}" if self.over else ""
        )


def at_least(bound: float, over: str = "", *, metric: str = "rate", subject: str = "ours") -> Bar:
    """Return a bar that is kept by `bound` and more."""
    return Bar(metric, bound, over, subject)


def at_most(bound: float, over: str = "", *, metric: str = "cpu", subject: str = "ours") -> Bar:
    """Return a bar that is kept by `bound` and less."""
    return Bar(metric, bound, over, subject, is_floor=False)


@dataclass(frozen=True)
class Verdict:
    """A bar, and the figure that is judged by it; None where it was not measured."""

    bar: Bar
    figure: float | None

    @property
    def word(self) -> str:
        """How it went."""
        if self.figure is None:
            return "not measured"
        is_kept = (
            self.figure >= self.bar.bound if self.bar.is_floor else self.figure <= self.bar.bound
        )
        return "ok" if is_kept else "missed"


def judge(bar: Bar, rounds: Rounds) -> Verdict:
    """Judge a row by one of its bars."""
    if bar.over:
        return Verdict(bar, ratio(rounds, bar.metric, bar.subject, bar.over))
    return Verdict(bar, middle(rounds.get(bar.subject, ()), bar.metric))


def middle(runs: Sequence[Figures], metric: str) -> float | None:
    """Return the median of a figure, None where no run has it."""
    found = [run[metric] for run in runs if metric in run]
    return median(found) if found else None


def ratio(rounds: Rounds, metric: str, subject: str, over: str) -> float | None:
    """Return the median of the rounds' ratios, None where there is none.

    Within a round the two ran one after the other: what slowed one slowed the other, too.
    """
    pairs = zip(rounds.get(subject, ()), rounds.get(over, ()), strict=False)
    found = [
        mine[metric] / theirs[metric]
        for mine, theirs in pairs
        if metric in mine and theirs.get(metric)
    ]
    return median(found) if found else None


def figures_of_bytes(watch: Watch, size: int) -> Figures:
    """Return what it took to move `size` bytes."""
    return {
        "rate": size / MIB / watch.seconds,
        "cpu": watch.cpu_seconds * GIB / size,
        **_of_watch(watch),
    }


def figures_of_requests(watch: Watch, report: Report) -> Figures:
    """Return what small requests took."""
    return {
        "rate": report.requests / report.seconds,
        "cpu": watch.cpu_seconds * 1000 / report.requests,
        "per_cpu": report.requests / watch.cpu_seconds,
        "p50": report.p50,
        "p99": report.p99,
        **_of_watch(watch),
    }


def figures_of_memory(watch: Watch) -> Figures:
    """Return what something took of which neither bytes nor requests are counted."""
    return _of_watch(watch)


def _of_watch(watch: Watch) -> Figures:
    return {
        "seconds": watch.seconds,
        "peak": watch.peak / MIB,
        "growth": watch.growth / MIB,
    }
