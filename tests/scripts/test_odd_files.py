"""scripts/upload.py with files that are not as they should be."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers
from tests.e2e.conftest import sqlite_only
from tests.processes import ServiceProcess, service_environment
from tests.scripts.test_resume import at, running
from tests.scripts.test_upload import command

pytestmark = sqlite_only


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script remembers here what is unfinished."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


both_ways = pytest.mark.parametrize("flags", [[], ["--resume"]], ids=["plain", "resumed"])


def run_for_bytes(*flags: str | Path, stdout: Any = subprocess.PIPE) -> tuple[int, bytes, bytes]:
    """Run the script; return its status and what it wrote, as the bytes they are."""
    result = subprocess.run(
        command(*map(os.fsdecode, flags)),
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=service_environment(),
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in result.stderr, result.stderr.decode()
    return result.returncode, result.stdout or b"", result.stderr


@both_ways
def test_names_are_given_back_as_the_bytes_they_are(
    service: ServiceProcess, tmp_path: Path, flags: list[str]
) -> None:
    folder = tmp_path / "two\nlines"
    folder.mkdir()
    names = [b"a", b"b\xff", b"c"]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(b"x")
    status, told, _ = run_for_bytes(*flags, folder, *at(service.url))
    assert status == 0
    paths = [line.partition(b"\t")[2] for line in told.splitlines()]
    inside = os.fsencode(folder).replace(b"\n", b"\\n")
    assert paths == [inside + b"/" + each for each in names]


@both_ways
def test_what_cannot_be_looked_at_does_not_stop_the_others(
    service: ServiceProcess, tmp_path: Path, flags: list[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    paths = [tmp_path / "a", tmp_path / ("n" * 300), tmp_path / "b"]
    status, told, complaints = run_for_bytes(*flags, *paths, *at(service.url))
    assert (status, len(told.splitlines())) == (1, 2)
    assert b"File name too long" in complaints


@both_ways
def test_what_is_no_file_is_left_out_and_named(
    service: ServiceProcess, tmp_path: Path, flags: list[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    (folder / "to_pipe").symlink_to(tmp_path / "pipe")
    (folder / "to_folder").symlink_to(tmp_path)
    (folder / "b").write_bytes(b"x")
    (folder / "to_b").symlink_to(folder / "b")
    status, told, complaints = run_for_bytes(*flags, folder, *at(service.url))
    assert (status, len(told.splitlines())) == (0, 2)
    for name in (b"to_pipe", b"to_folder"):
        assert name + b": left out" in complaints


def test_a_file_that_becomes_shorter_is_not_stored(
    service: ServiceProcess, tmp_path: Path, leftovers: Leftovers
) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(bytes(64_000_000))
    service.signal_all(signal.SIGSTOP)
    try:
        with running(str(path), *at(service.url)) as process:
            wait_until_blocked(process.pid, path)
            os.truncate(path, 1000)
            service.signal_all(signal.SIGCONT)
            told, complaints = process.communicate(timeout=60)
    finally:
        service.signal_all(signal.SIGCONT)
    assert (process.returncode, told) == (1, "")
    assert "it became shorter while it was sent" in complaints
    service.stop()
    assert leftovers.files() == []


def wait_until_blocked(pid: int, path: Path) -> None:
    """Wait until a process has read some of a file, and reads no further."""
    before, position = -1, 0
    while position <= 0 or position != before:
        time.sleep(0.3)
        before, position = position, find_position(pid, path)


def find_position(pid: int, path: Path) -> int:
    for each in Path(f"/proc/{pid}/fd").iterdir():
        if each.exists() and each.resolve() == path:
            info = Path(f"/proc/{pid}/fdinfo/{each.name}").read_text()
            return int(info.split()[1])
    return -1
