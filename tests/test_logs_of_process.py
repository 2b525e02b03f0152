"""Wherever a service process writes its log to, and even if nowhere: it serves, and ends with 0."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from file_service.config import Settings
from tests.processes import service_environment

# Nothing here depends on which database it is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

DEADLINE_SECONDS = 20
CONTENT = os.urandom(1024 * 1024)
PIPE_SIZE = 64 * 1024
COMMAND = [sys.executable, "-m", "file_service", "serve"]

Started = tuple["subprocess.Popen[bytes]", int]
Start = Callable[..., Started]


@pytest.fixture(params=["1", "2"])
def workers(request: pytest.FixtureRequest) -> str:
    """How many: one serves in the process that was started, two in its children."""
    return str(request.param)


@pytest.fixture
def start(settings: Settings, tmp_path: Path, workers: str) -> Iterator[Start]:
    """Start a service with a standard output of the test's choice; return it and its port."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(stdout: "int | IO[bytes] | None" = None, *, redirection: str = "") -> Started:
        port = free_port()
        flags = ("--dir", str(settings.dir), "--database-url", settings.database_url)
        command = [*COMMAND, *flags, "--workers", workers, "--port", str(port)]
        with (tmp_path / "stderr").open("wb") as stderr:
            processes.append(
                subprocess.Popen(
                    ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
                    stdout=stdout,
                    stderr=stderr,
                    env=service_environment(),
                )
            )
        wait_until(lambda: is_ready(port), "the start of the service")  # no log may tell of it
        return processes[-1], port

    yield run
    for process in processes:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds; fail, naming `what` was waited for, after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.05)


def is_ready(port: int) -> bool:
    try:
        return ask(port, "GET", "/readyz")[0] == 200
    except ConnectionRefusedError:
        return False


def check_serves(port: int, *, times: int = 3) -> None:
    """Files go in and come back, several times, over connections of their own."""
    for _ in range(times):
        status, file_id = ask(port, "POST", "/files/", CONTENT)
        assert status == 201
        assert ask(port, "GET", f"/files/{file_id.decode()}/") == (200, CONTENT)


def check_ends_well(process: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=DEADLINE_SECONDS) == 0
    assert (tmp_path / "stderr").read_text() == ""


def test_it_serves_without_a_standard_output(start: Start, tmp_path: Path) -> None:
    process, port = start(redirection=">&-")
    check_serves(port)
    check_ends_well(process, tmp_path)


@pytest.mark.parametrize("workers", ["1"], indirect=True)
def test_it_serves_without_any_standard_descriptor(start: Start, tmp_path: Path) -> None:
    process, port = start(redirection="<&- >&- 2>&-")
    check_serves(port)
    check_ends_well(process, tmp_path)


def test_it_serves_when_the_log_cannot_be_written(start: Start, tmp_path: Path) -> None:
    process, port = start(redirection=">/dev/full")
    check_serves(port)
    check_ends_well(process, tmp_path)


def test_it_serves_on_when_the_reader_of_the_log_goes_away(start: Start, tmp_path: Path) -> None:
    process, port = start(subprocess.PIPE)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["message"] == f"listening on http://127.0.0.1:{port}"
    process.stdout.close()
    check_serves(port)
    check_ends_well(process, tmp_path)


@pytest.mark.parametrize("workers", ["1"], indirect=True)
def test_it_serves_on_when_nobody_reads_the_log(start: Start, tmp_path: Path) -> None:
    process, port = start(subprocess.PIPE)
    written = 0
    while written < PIPE_SIZE:  # each request is a line that tells its path
        path = "/" + "x" * 4000
        assert ask(port, "GET", path)[0] == 404
        written += len(path)
    check_serves(port)
    check_ends_well(process, tmp_path)


def test_a_log_file_has_every_line_and_the_last_tells_of_the_end(
    start: Start, tmp_path: Path, workers: str
) -> None:
    with (tmp_path / "log").open("wb") as log:
        process, port = start(log)
    check_serves(port, times=20)
    wait_until(lambda: len(requests_in(tmp_path / "log")) == 40, "a line for each request")
    check_ends_well(process, tmp_path)
    assert (tmp_path / "log").read_text().endswith("}\n")
    messages = [line["message"] for line in read_lines(tmp_path / "log")]
    assert messages[0] == f"listening on http://127.0.0.1:{port}"
    assert messages.count("worker started") == int(workers)
    assert messages[-int(workers) :] == ["worker stopping"] * int(workers)


def requests_in(path: Path) -> list[dict[str, Any]]:
    lines = read_lines(path)
    return [line for line in lines if str(line.get("path")).startswith("/files/")]


def read_lines(path: Path) -> list[dict[str, Any]]:
    whole = path.read_text().rpartition("\n")[0]  # the last line may still be written
    return [json.loads(line) for line in whole.splitlines()]
