"""The suite runs, on next to nothing and on ourselves alone, and writes down what it found."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_bench(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--dir", str(folder), *flags],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_quick_run_writes_tables_and_figures(tmp_path: Path) -> None:
    rows = ["upload-chunked"]
    rows += ["small-get"] * (shutil.which("wrk") is not None)
    output = tmp_path / "results"
    flags = ("--quick", "--systems", "ours", "--only", ",".join(rows), "--output", str(output))
    done = run_bench(tmp_path, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((output / "results.json").read_text())
    assert [row["name"] for row in record["rows"]] == rows
    for row in record["rows"]:
        assert row["failures"] == {}
        assert all(figures["rate"] > 0 for figures in row["rounds"]["ours"])
        assert all(figures["peak"] > 10 for figures in row["rounds"]["ours"])
    page = (output / "results.md").read_text()
    assert "| ours |" in page
    assert "not measured" in page
    assert [path.name for path in tmp_path.iterdir()] == ["results"], "something was left behind"


@pytest.mark.parametrize("flags", [("--only", "nothing"), ("--rounds", "many")])
def test_what_it_does_not_know_it_refuses(tmp_path: Path, flags: tuple[str, str]) -> None:
    done = run_bench(tmp_path, *flags)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
