"""The figures as pictures: who is how fast, who burns how much, and how every bar was kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image

from benchmarks.figures import Verdict, middle, ratio
from benchmarks.results import Result, format_number

mpl.use("Agg")

from matplotlib import pyplot as plt

OURS, NGINX, OTHERS = "#2563eb", "#4b5563", "#b6bcc6"
KEPT, MISSED = "#16a34a", "#dc2626"
TEXT, FAINT = "#1f2937", "#9ca3af"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.bottom": False,
    "ytick.left": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
PICTURES = {
    "rate": ("Rate: longer is faster", ("GiB", "1,000 requests")),
    "cpu": ("Processor time of the server: shorter is cheaper", ("GiB", "1,000 requests")),
    "growth": ("Growth of the server's memory: shorter is smaller", ("GiB", "")),
    "p99": ("Slowest of a hundred requests: shorter is better", ("1,000 requests",)),
}
UNITS = {
    ("rate", "GiB"): "MiB/s",
    ("rate", "1,000 requests"): "requests/s",
    ("cpu", "GiB"): "s per GiB",
    ("cpu", "1,000 requests"): "s per 1,000",
    ("p99", "1,000 requests"): "ms",
}
COLORS = 48  # shades of edges included
MARKS = {0.1: "÷ 10", 0.2: "÷ 5", 0.5: "÷ 2", 1: "bar", 2: "× 2", 5: "× 5", 10: "× 10"}
MOST_SHOWN = 10.0  # times its bar, beyond which a figure is cut off


def draw_all(results: Sequence[Result], folder: Path) -> None:
    """Write a picture for each kind of figure, and one of all bars."""
    with plt.rc_context(STYLE):
        for metric, (title, units) in PICTURES.items():
            shown = [each for each in results if is_worth_showing(each, metric, units)]
            if shown:
                save(draw_panels(shown, metric, title), folder / f"{metric}.png")
        verdicts = [
            (result.row.title, verdict)
            for result in results
            for verdict in result.verdicts
            if verdict.figure is not None
        ]
        if verdicts:
            save(draw_bars(verdicts), folder / "bars.png")


def is_worth_showing(result: Result, metric: str, units: Sequence[str]) -> bool:
    """Whether a row has this figure of at least two, and is about it."""
    found = [name for name in result.rounds if middle(result.rounds[name], metric) is not None]
    is_memory = metric == "growth" and result.row.name not in {"together", "idle"}
    return len(found) > 1 and result.row.unit in units and not is_memory


def save(figure: Any, path: Path) -> None:
    """Write a picture of few colours, and forget the figure."""
    figure.savefig(path, dpi=110)
    plt.close(figure)
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLORS).save(path, optimize=True)


def draw_panels(results: Sequence[Result], metric: str, title: str) -> Any:
    """Return a figure with a panel of horizontal bars for each row."""
    columns = min(2, len(results))
    lines = -(-len(results) // columns)
    most = max(len(result.rounds) for result in results)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(5.4 * columns, 0.6 + lines * (0.55 + 0.26 * most)),
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    panels = [axis for line in axes for axis in line]
    for axis, result in zip(panels, results, strict=False):
        draw_panel(axis, result, metric, most)
    for axis in panels[len(results) :]:
        axis.set_visible(False)
    return figure


def draw_panel(axis: Any, result: Result, metric: str, lines: int) -> None:
    """Draw who did how much in one row, with room for so many lines."""
    found = [(name, middle(runs, metric)) for name, runs in result.rounds.items()]
    values = {name: value for name, value in found if value is not None}
    unit = UNITS.get((metric, result.row.unit), "MiB")
    names = list(values)
    axis.barh(names, [values[name] for name in names], color=[color_of(name) for name in names])
    for at, name in enumerate(names):
        label = f" {format_number(values[name])} {unit}"
        beside = ratio(result.rounds, metric, name, result.row.over)
        if beside is not None and name != result.row.over and metric != "growth":
            label += f"   {format_number(beside)} × {result.row.over}"
        axis.text(values[name], at, label, va="center", fontsize=8)
    axis.set_ylim(lines - 0.5, -0.5)
    axis.set_title(result.row.title)
    axis.set_xticks([])
    axis.set_xlim(0, 1.95 * max(*values.values(), 1e-9))


def color_of(name: str) -> str:
    """Return the colour of a system, wherever it stands."""
    if name.startswith("nginx"):
        return NGINX
    return OURS if name.startswith(("ours", "GET", "POST")) else OTHERS


def draw_bars(verdicts: Sequence[tuple[str, Verdict]]) -> Any:
    """Return a figure of how far beyond its bar each figure is, or how far short of it."""
    figure, axis = plt.subplots(
        figsize=(10.8, 0.8 + 0.3 * len(verdicts)),
        layout="constrained",
    )
    figure.suptitle(
        "Every bar: right of the line it is kept", x=0.01, ha="left", fontsize=12, fontweight="bold"
    )
    for at, (_, verdict) in enumerate(verdicts):
        margin = min(max(margin_of(verdict), 1 / MOST_SHOWN), MOST_SHOWN)
        color = KEPT if verdict.word == "ok" else MISSED
        axis.barh(at, margin - 1, left=1, color=color, height=0.6)
        sign = " ×" if verdict.bar.over else ""
        label = f" {format_number(verdict.figure)}{sign} "
        axis.text(margin, at, label, va="center", ha="left" if margin >= 1 else "right", fontsize=8)
    axis.axvline(1, color=TEXT, linewidth=1)
    axis.set_xscale("log")
    axis.set_xlim(1 / MOST_SHOWN / 2.5, MOST_SHOWN * 2)
    axis.set_ylim(len(verdicts) - 0.4, -0.6)
    axis.spines["left"].set_visible(False)
    axis.set_xticks([], minor=True)
    axis.set_xticks(list(MARKS), list(MARKS.values()))
    axis.set_yticks(
        range(len(verdicts)), [f"{title}:  {verdict.bar.text}" for title, verdict in verdicts]
    )
    return figure


def margin_of(verdict: Verdict) -> float:
    """Return by what factor a figure is on the right side of its bar; below 1, on the wrong one."""
    figure = max(verdict.figure or 0.0, 1e-9)
    return figure / verdict.bar.bound if verdict.bar.is_floor else verdict.bar.bound / figure
