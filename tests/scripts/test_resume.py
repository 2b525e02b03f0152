"""scripts/upload.py --resume: interrupted in every way, it goes on and sends only the rest."""

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Leftovers, MakeService
from tests.cutting_proxy import CuttingProxy, cutting
from tests.e2e.stored import IDS, VARIANTS, make_database
from tests.processes import ServiceProcess, service_environment
from tests.scripts.test_upload import Completed, _run_on_terminal, command, run
from tests.scripts.tus_peer import ID, TusPeer

SIZE = 32_000_003
STOP = 1_250_000
SECONDS = 60
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# What heads of requests, and what was on the way when a wire broke, may add to the bytes.
SLACK = 300_000


# What the script can tell one variant from the other by: who answers where it goes on.
every_variant = pytest.mark.parametrize(
    ("database_url", "service"), VARIANTS, ids=IDS, indirect=True
)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The embedded catalogue, unless a test names another."""
    return make_database(request, getattr(request, "param", "sqlite"), tmp_path)


@pytest.fixture
def service(request: pytest.FixtureRequest, make_service: MakeService) -> ServiceProcess:
    """One worker, unless a test names another number."""
    return make_service("--workers", getattr(request, "param", "1"))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the script remembers what is unfinished."""
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "file-service" / "uploads"


@pytest.fixture
def file(tmp_path: Path, state: Path) -> Path:
    path = tmp_path / "отчёт.pdf"
    path.write_bytes(os.urandom(SIZE))
    return path


def at(url: str) -> tuple[str, str]:
    return "--port", str(urlsplit(url).port)


def remembered(state: Path) -> list[Path]:
    return sorted(state.glob("*")) if state.exists() else []


def check_stored(service: ServiceProcess, file_id: str, path: Path) -> None:
    info = json.loads(get(f"{service.url}/files/{file_id}/info"))
    assert (info["name"], info["size"]) == (path.name, path.stat().st_size)
    back = get(f"{service.url}/files/{file_id}/")
    assert hashlib.sha256(back).digest() == hashlib.sha256(path.read_bytes()).digest()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return bytes(answer.read())


def check_succeeded(result: Completed, service: ServiceProcess, path: Path) -> None:
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(f"{UUID}\n", result.stdout)
    check_stored(service, result.stdout.strip(), path)


@contextmanager
def running(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """The script in the middle of its work."""
    process = subprocess.Popen(
        command(*flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=service_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(
    service: ServiceProcess,
    proxy: CuttingProxy,
    *flags: str,
    how: signal.Signals = signal.SIGKILL,
    parts: int = 1,
) -> tuple[int, str, str]:
    """Run the script up to where the wire stops, and end it there; its requests end, too."""
    with running(*flags, *at(proxy.url)) as process:
        proxy.wait_for(parts * STOP)
        process.send_signal(how)
        out, err = process.communicate(timeout=SECONDS)
    proxy.go_on()
    service.wait_for("request", 2 * parts)
    return process.returncode, out, err


@pytest.fixture
def wire(service: ServiceProcess) -> Iterator[CuttingProxy]:
    """A wire that stops in the middle of the first upload."""
    with cutting(service.url, stop_at=STOP) as proxy:
        yield proxy


# ── interrupted, and started again ──


@every_variant
@pytest.mark.parametrize("flags", [["--resume"], ["--parallel", "4"]], ids=["whole", "parts"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_started_again_sends_only_the_rest(
    service: ServiceProcess,
    wire: CuttingProxy,
    file: Path,
    state: Path,
    how: signal.Signals,
    flags: list[str],
) -> None:
    parts = 4 if "4" in flags else 1
    status, out, err = interrupt(service, wire, *flags, str(file), how=how, parts=parts)
    assert out == ""
    if how == signal.SIGINT:
        assert status == 130
        assert "error: interrupted; the same command goes on where it stopped\n" in err
    assert wire.sent < SIZE

    result = run(*flags, str(file), *at(wire.url))
    check_succeeded(result, service, file)
    assert wire.sent < SIZE + SLACK
    assert [path for path in remembered(state) if path.suffix == ".json"] == []


@every_variant
def test_parts_begun_as_four_stay_four(
    service: ServiceProcess, wire: CuttingProxy, file: Path
) -> None:
    interrupt(service, wire, "--parallel", "4", str(file), parts=4)
    check_succeeded(run("--resume", str(file), *at(wire.url)), service, file)
    posts = [line for line in service.lines if line.get("method") == "POST"]
    assert len(posts) == 5


def test_a_run_killed_after_its_parts_were_put_together_makes_no_second_file(
    file: Path, tmp_path: Path
) -> None:
    memory = tmp_path / "memory.json"
    flags = ("--parallel", "2", "--state", str(memory), str(file))
    with TusPeer(first={"HEAD": [503] * 99}) as peer:  # only what comes after that asks by HEAD
        with running(*flags, "--port", peer.port) as process:
            peer.wait_for("HEAD")
            process.kill()
        peer.first.clear()
        result = run(*flags, "--port", peer.port)
    assert (result.returncode, result.stdout) == (0, f"{ID}\n")
    assert peer.methods.count("POST") == 3
    assert not memory.exists()


def test_a_file_changed_in_between_is_sent_anew(
    service: ServiceProcess, wire: CuttingProxy, file: Path
) -> None:
    interrupt(service, wire, "--resume", str(file))
    file.write_bytes(os.urandom(SIZE))
    result = run("--resume", str(file), *at(wire.url))
    check_succeeded(result, service, file)
    assert "the file has changed: it is sent anew" in result.stderr


async def test_what_is_not_gone_on_with_is_taken_away(
    service: ServiceProcess, wire: CuttingProxy, file: Path, leftovers: Leftovers
) -> None:
    interrupt(service, wire, "--resume", str(file))
    os.utime(file, (1, 1))
    result = await asyncio.to_thread(run, "--resume", str(file), *at(wire.url))
    check_succeeded(result, service, file)
    assert await leftovers.execute("SELECT count(*) FROM upload WHERE state = 'open'") == 0


async def test_what_is_a_file_already_stays_when_its_origin_changes(
    service: ServiceProcess, file: Path, leftovers: Leftovers
) -> None:
    """Its id may have been told."""
    with Path("/dev/full").open("w") as full:
        await asyncio.to_thread(
            subprocess.run, command("--resume", str(file), *at(service.url)),
            stdout=full, env=service_environment(), check=False,
        )  # fmt: skip
    os.utime(file, (1, 1))
    result = await asyncio.to_thread(run, "--resume", str(file), *at(service.url))
    check_succeeded(result, service, file)
    assert await leftovers.rows() == 2


async def test_an_upload_that_has_expired_is_begun_anew(
    service: ServiceProcess, wire: CuttingProxy, file: Path, leftovers: Leftovers
) -> None:
    interrupt(service, wire, "--resume", str(file))
    await leftovers.execute("UPDATE upload SET expires_at = created_at")
    result = run("--resume", str(file), *at(wire.url))
    check_succeeded(result, service, file)
    assert "410 Gone; trying again in " in result.stderr


def test_an_upload_that_nobody_knows_any_more_is_begun_anew(
    service: ServiceProcess, wire: CuttingProxy, file: Path, state: Path
) -> None:
    interrupt(service, wire, "--resume", str(file))
    (memory,) = (path for path in remembered(state) if path.suffix == ".json")
    unknown = "00000000-0000-4000-8000-000000000000"
    memory.write_text(re.sub(UUID, unknown, memory.read_text()))
    check_succeeded(run("--resume", str(file), *at(wire.url)), service, file)


@pytest.mark.parametrize("nonsense", ["", "{", "[]", "null", '{"a": 1}', "\0"])
def test_a_memory_of_nonsense_is_none(
    service: ServiceProcess, file: Path, tmp_path: Path, nonsense: str
) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text(nonsense)
    flags = ("--state", str(memory), str(file))
    check_succeeded(run(*flags, *at(service.url)), service, file)


@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"parts": [{"start": 5, "end": SIZE, "url": None}]},
        {"parts": [{"start": 0, "end": SIZE + 1, "url": None}]},
        {"parts": [{"start": 0, "end": SIZE, "url": 7}]},
        {"parts": [{"start": 0, "end": SIZE, "url": "ftp://x/"}]},
        {"url": "x"},
        {"size": float("inf")},
    ],
)
def test_nor_is_one_of_what_cannot_be(
    service: ServiceProcess, file: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    found = file.stat()
    parts = [{"start": 0, "end": SIZE, "url": None}]
    entry = {"size": SIZE, "mtime_ns": found.st_mtime_ns, "parts": parts, "url": None} | change
    memory = tmp_path / "memory.json"
    memory.write_text(json.dumps({f"{service.url}/uploads/ {file}": entry}))
    check_succeeded(run("--state", str(memory), str(file), *at(service.url)), service, file)
    assert not memory.exists()


def test_memories_are_nested_only_so_deep(service: ServiceProcess, file: Path) -> None:
    memory = file.with_name("memory.json")
    memory.write_text("[" * 100_000)
    check_succeeded(run("--state", str(memory), str(file), *at(service.url)), service, file)


def test_nobody_else_reads_where_uploads_are(
    service: ServiceProcess, wire: CuttingProxy, file: Path, state: Path
) -> None:
    interrupt(service, wire, "--resume", str(file))
    kept = [path for path in remembered(state) if path.suffix == ".json"]
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]


def test_an_id_that_could_not_be_told_is_told_by_the_next_run(
    service: ServiceProcess, file: Path, leftovers: Leftovers
) -> None:
    flags = command("--resume", str(file), *at(service.url))
    with Path("/dev/full").open("w") as full:
        first = subprocess.run(
            flags, stdout=full, stderr=subprocess.PIPE, env=service_environment(), check=False
        )
    assert first.returncode == 1
    told = run("--resume", str(file), *at(service.url))
    check_succeeded(told, service, file)
    assert f"stored as {told.stdout.strip()}" in first.stderr.decode()
    service.stop()
    assert len(leftovers.files()) == 1


def test_a_whole_whose_parts_have_gone_since_is_found_again(
    service: ServiceProcess, file: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    """The answer was lost, and the run was killed; parts are kept for ten minutes only."""
    memory = tmp_path / "memory.json"
    flags = ["--parallel", "2", "--state", str(memory), str(file), *at(service.url)]
    with Path("/dev/full").open("w") as full:
        subprocess.run(command(*flags), stdout=full, env=service_environment(), check=False)
    entries = json.loads(memory.read_text())
    [entry] = entries.values()
    stored, entry["url"] = entry["url"], None
    for part in entry["parts"]:
        delete(part["url"])
    memory.write_text(json.dumps(entries))
    again = run(*flags)
    check_succeeded(again, service, file)
    assert again.stdout.strip() == stored.rpartition("/")[2]


def delete(url: str) -> None:
    headers = {"Tus-Resumable": "1.0.0"}
    with urllib.request.urlopen(urllib.request.Request(url, method="DELETE", headers=headers)):
        pass


def test_the_memory_can_be_chosen_and_goes_away_with_the_last_upload(
    service: ServiceProcess, wire: CuttingProxy, file: Path, tmp_path: Path, state: Path
) -> None:
    memory = tmp_path / "here" / "memory.json"
    interrupt(service, wire, "--state", str(memory), str(file))
    assert [key.split()[1] for key in json.loads(memory.read_text())] == [str(file)]
    check_succeeded(run("--state", str(memory), str(file), *at(wire.url)), service, file)
    assert not memory.exists()
    assert remembered(state) == []


def test_a_second_run_of_the_same_file_is_refused_while_the_first_goes_on(
    service: ServiceProcess, wire: CuttingProxy, file: Path
) -> None:
    with running("--resume", str(file), *at(wire.url)) as first:
        wire.wait_for(STOP)
        second = run("--resume", str(file), *at(wire.url))
        assert (second.returncode, second.stdout) == (1, "")
        assert "another run is uploading it" in second.stderr
        wire.go_on()
        out, _ = first.communicate(timeout=SECONDS)
        assert first.returncode == 0
    check_stored(service, out.strip(), file)


# ── what breaks while it runs ──


def test_a_server_killed_and_started_again_in_the_middle_is_waited_for(
    service: ServiceProcess, make_service: MakeService, wire: CuttingProxy, file: Path
) -> None:
    with running("--resume", str(file), *at(wire.url)) as process:
        wire.wait_for(STOP)
        service.stop(signal.SIGKILL)
        second = make_service()
        wire.redirect(second.url)
        wire.go_on()
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    assert "trying again in " in err
    check_stored(second, out.strip(), file)


@every_variant
@pytest.mark.parametrize("flags", [["--resume"], ["--parallel", "3"]], ids=["whole", "parts"])
def test_connections_that_break_are_made_again_and_nothing_is_sent_twice(
    service: ServiceProcess, file: Path, flags: list[str]
) -> None:
    with cutting(service.url, cuts=[2_000_000, 3_000_000, 1_000_000, 100]) as proxy:
        result = run(*flags, str(file), *at(proxy.url))
    assert proxy.cut_connections >= 3
    assert proxy.sent < SIZE + SLACK * proxy.cut_connections
    assert "trying again in " in result.stderr
    check_succeeded(result, service, file)


@pytest.mark.parametrize("status", [408, 409, 423, 429, 460, 500, 502, 503, 504])
def test_what_passes_is_tried_again(file: Path, status: int) -> None:
    with TusPeer(first={"POST": [status], "PATCH": [status], "HEAD": [status]}) as peer:
        result = run("--resume", str(file), "--port", peer.port)
    assert (result.returncode, result.stdout) == (0, f"{ID}\n"), result.stderr
    assert peer.methods == ["POST", "POST", "PATCH", "HEAD", "HEAD", "PATCH", "HEAD"]
    assert peer.content == file.read_bytes()


def test_the_server_says_how_long_to_wait(file: Path) -> None:
    with TusPeer(first={"POST": [503]}, retry_after="2") as peer:
        assert run("--resume", str(file), "--port", peer.port).returncode == 0
    assert peer.times[1] - peer.times[0] >= 2


def test_without_progress_it_ends_after_so_many_attempts(file: Path) -> None:
    with TusPeer(first={"POST": [503] * 99}) as peer:
        result = run("--resume", "--retries", "2", str(file), "--port", peer.port)
    assert (result.returncode, result.stdout) == (1, "")
    assert peer.methods == ["POST"] * 3
    assert "the server answered 503" in result.stderr


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 413, 415])
def test_what_does_not_pass_is_not_tried_again(file: Path, status: int) -> None:
    with TusPeer(first={"POST": [status]}) as peer:
        result = run("--resume", str(file), "--port", peer.port)
    assert (result.returncode, result.stdout) == (1, "")
    assert peer.methods == ["POST"]
    assert f"the server answered {status}" in result.stderr


def test_a_file_that_arrived_as_something_else_is_taken_back(file: Path, state: Path) -> None:
    with TusPeer(digest="sha-256=:" + "A" * 43 + "=:") as peer:
        result = run("--resume", str(file), "--port", peer.port)
    assert (result.returncode, result.stdout) == (1, "")
    assert "what is stored differs from it" in result.stderr
    assert peer.methods[-1] == "DELETE"
    assert remembered(state) == []


def test_what_cannot_be_taken_back_is_named(file: Path) -> None:
    with TusPeer(digest="sha-256=:" + "A" * 43 + "=:", first={"DELETE": [503]}) as peer:
        result = run("--resume", str(file), "--port", peer.port)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"it is still there: http://127.0.0.1:{peer.port}/uploads/{ID}" in result.stderr


def test_a_file_that_goes_while_it_is_sent_is_taken_back(file: Path) -> None:
    with (
        TusPeer(first={"HEAD": [503]}) as peer,
        running("--resume", str(file), "--port", peer.port) as process,
    ):
        peer.wait_for("HEAD")
        file.unlink()
        told, complaints = process.communicate(timeout=SECONDS)
    assert (process.returncode, told) == (1, "")
    assert "it changed while it was sent; nothing is kept" in complaints
    assert peer.methods[-1] == "DELETE"


def test_one_attempt_a_run_gets_past_an_upload_that_is_gone(file: Path, state: Path) -> None:
    flags = ("--resume", "--retries", "0", str(file))
    with TusPeer(first={"PATCH": [503], "HEAD": [410]}) as peer:
        runs = [run(*flags, "--port", peer.port).returncode for _ in range(3)]
    assert runs == [1, 1, 0]
    assert peer.methods.count("POST") == 2


@pytest.mark.parametrize(
    ("name", "value"), [("Location", "http://[x"), ("Upload-Offset", "9" * 5000)]
)
def test_an_answer_of_nonsense_is_one_failure(file: Path, name: str, value: str) -> None:
    with TusPeer(say={name: value}) as peer:
        result = run("--resume", "--retries", "0", str(file), "--port", peer.port)
    assert (result.returncode, result.stdout) == (1, "")


def test_a_server_that_is_away_is_one_failure_after_its_attempts(file: Path) -> None:
    with TusPeer() as peer:
        port = peer.port
    result = run("--resume", "--retries", "1", str(file), "--port", port)
    assert (result.returncode, result.stdout) == (1, "")
    assert "trying again in " in result.stderr
    assert result.stderr.endswith("failed: Connection refused\n")


@pytest.mark.parametrize("url", ["nothing/", "readyz", "files/"])
def test_an_address_without_resumable_uploads_is_one_failure(
    service: ServiceProcess, file: Path, url: str, state: Path
) -> None:
    result = run("--resume", "--url", url, str(file), *at(service.url))
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert remembered(state) == []


def test_a_pipe_cannot_be_gone_on_with(state: Path) -> None:
    result = run("--resume", "/dev/null")
    assert (result.returncode, result.stdout) == (1, "")
    assert "is no regular file" in result.stderr


# ── sizes, several files, folders ──


@pytest.mark.parametrize("flags", [["--resume"], ["--parallel", "4"]], ids=["whole", "parts"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 3 * 256 * 1024 + 1])
def test_files_of_every_size_go_up(
    service: ServiceProcess, tmp_path: Path, state: Path, size: int, flags: list[str]
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(os.urandom(size))
    check_succeeded(run(*flags, str(path), *at(service.url)), service, path)


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--parallel", "2"]])
def test_files_and_folders_go_up_in_order_and_those_that_fail_do_not_stop_the_others(
    service: ServiceProcess, tmp_path: Path, state: Path, flags: list[str]
) -> None:
    for name in ("b/z.txt", "b/a/deep.txt", "b/empty", "lone.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "b/empty" else name)
    result = run("--path", "b", "--path", "missing", "--path", "lone.txt", *flags, *at(service.url))

    assert result.returncode == 1
    assert "missing: " in result.stderr
    assert len(result.stderr.splitlines()) == 1
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [name for _, name in lines] == ["b/empty", "b/z.txt", "b/a/deep.txt", "lone.txt"]
    for file_id, name in lines:
        check_stored(service, file_id, tmp_path / name)


def test_one_file_by_its_place_alone_prints_the_id_alone(
    service: ServiceProcess, tmp_path: Path
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("x")
    check_succeeded(run(str(path), *at(service.url)), service, path)


def test_a_terminal_shows_the_rate_and_the_time_left(
    service: ServiceProcess, file: Path, tmp_path: Path
) -> None:
    status, out, shown = _run_on_terminal("--resume", str(file), *at(service.url))
    assert status == 0
    check_stored(service, out.decode().strip(), file)
    assert re.search(rb"\d+%.*\[\d\d:\d\d<\d\d:\d\d, +[\d.]+[kM]?B/s\]", shown), shown
    assert b"100%" in shown
