"""The command line: what it says, how it ends, which of several settings counts."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from file_service.catalogue.engine import connect
from file_service.config import Settings
from tests.conftest import MakeService
from tests.processes import running_service, service_environment

SECRET = "s3cr3t-pass"  # of nothing real

Done = subprocess.CompletedProcess[str]


def run(*arguments: str, **variables: str) -> Done:
    """Run `file-service` to its end in the folder of the test."""
    return subprocess.run(
        [sys.executable, "-m", "file_service", *arguments],
        env=service_environment(**variables),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def check_refused(done: Done, reason: str) -> None:
    """It ended with 1 and one line, on standard error, that gives the reason."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("file-service: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith("\n")
    assert reason in done.stderr
    assert done.stdout == ""
    assert done.returncode == 1


@pytest.fixture
def folder(tmp_path: Path) -> str:
    path = tmp_path / "files"
    path.mkdir(exist_ok=True)
    return str(path)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite catalogue that is not there yet."""
    return f"sqlite:///{tmp_path}/new.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database_url(request: pytest.FixtureRequest, sqlite_url: str) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield sqlite_url
        return
    server: str = request.getfixturevalue("postgres_url")
    name = f"new_{uuid4().hex}"
    asyncio.run(execute(server, f"CREATE DATABASE {name}"))
    yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    asyncio.run(execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def execute(server_url: str, statement: str) -> None:
    engine = connect(server_url)
    await engine.read(lambda connection: connection.execute(sa.text(statement)))
    await engine.dispose()


async def count_files(url: str) -> int:
    engine = connect(url)
    try:
        count = sa.text("SELECT count(*) FROM file")
        return int(await engine.read(lambda connection: connection.scalar(count)))
    finally:
        await engine.dispose()


# --- wrong usage and unusable settings ---


@pytest.mark.parametrize(
    "arguments",
    [(), ("nonsense",), ("serve", "--nonsense"), ("serve", "--port")],
    ids=lambda arguments: " ".join(arguments) or "no command",
)
def test_wrong_usage_ends_with_2_and_the_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: file-service")
    assert "Traceback" not in done.stderr


def test_help_is_printed_on_standard_output() -> None:
    done = run("serve", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: file-service serve")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "abc"),
        ("--port", "70000"),
        ("--workers", "0"),
        ("--max-size", "-5"),
        ("--log-level", "loud"),
    ],
)
def test_an_unusable_value_is_named_with_its_flag(folder: str, flag: str, value: str) -> None:
    done = run("serve", "--dir", folder, flag, value)
    check_refused(done, flag)
    assert repr(value) in done.stderr


def test_a_misspelt_variable_is_refused() -> None:
    check_refused(run("serve", FILE_SERVICE_PROT="1"), "FILE_SERVICE_PROT")


def test_a_misspelt_variable_in_the_env_file_is_refused() -> None:
    Path(".env").write_text("FILE_SERVICE_PROT=1\n")
    check_refused(run("migrate"), "FILE_SERVICE_PROT")


# --- flag over variable over .env over default ---


def test_the_env_file_sets_what_nothing_else_sets() -> None:
    Path(".env").write_text("FILE_SERVICE_DIR=from-the-file\n")
    check_refused(run("serve"), "from-the-file")


def test_a_variable_beats_the_env_file() -> None:
    Path(".env").write_text("FILE_SERVICE_DIR=from-the-file\n")
    check_refused(run("serve", FILE_SERVICE_DIR="from-the-variable"), "from-the-variable")


def test_a_flag_beats_a_variable_and_the_env_file() -> None:
    Path(".env").write_text("FILE_SERVICE_DIR=from-the-file\n")
    done = run("serve", "--dir", "from-the-flag", FILE_SERVICE_DIR="from-the-variable")
    check_refused(done, "from-the-flag")


def test_a_service_runs_by_its_env_file_alone(folder: str, sqlite_url: str) -> None:
    Path(".env").write_text(
        f"FILE_SERVICE_DIR={folder}\n"
        f"FILE_SERVICE_DATABASE_URL={sqlite_url}\n"
        "FILE_SERVICE_WORKERS=2\n"
    )
    service = running_service()
    try:
        assert service.wait_for("listening on")[0]["workers"] == 2
        assert service.stop() == 0
    finally:
        service.end()


def test_the_default_folder_and_catalogue_are_made_where_they_are_missing(tmp_path: Path) -> None:
    service = running_service()
    try:
        assert (tmp_path / "data" / "files").is_dir()
        assert (tmp_path / "data" / "catalogue.db").is_file()
        assert service.stop() == 0
    finally:
        service.end()


# --- what the service rests on is not there ---


@pytest.mark.parametrize("make", [Path.absolute, Path.touch], ids=["absent", "a file"])
def test_a_named_folder_that_is_none_is_refused(
    tmp_path: Path, sqlite_url: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "somewhere")
    flags = ("--dir", str(tmp_path / "somewhere"), "--database-url", sqlite_url)
    check_refused(run("serve", *flags), str(tmp_path / "somewhere"))
    assert not (tmp_path / "somewhere").is_dir()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_another_program_has_is_refused(
    folder: str, sqlite_url: str, workers: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--dir", folder, "--database-url", sqlite_url, "--workers", workers)
        check_refused(run("serve", "--port", port, *flags), f"127.0.0.1:{port}")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_port_that_another_service_has_is_refused(
    make_service: MakeService, folder: str, sqlite_url: str
) -> None:
    port = make_service("--workers", "2").url.rpartition(":")[2]
    flags = ("--dir", folder, "--database-url", sqlite_url, "--workers", "2")
    check_refused(run("serve", "--port", port, *flags), f"127.0.0.1:{port}")


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_an_unreachable_database_is_refused(command: str) -> None:
    url = f"postgresql+asyncpg://x:{SECRET}@127.0.0.1:1/x"
    done = run(command, FILE_SERVICE_DATABASE_URL=url)
    check_refused(done, "database")
    assert SECRET not in done.stderr


def test_a_sqlite_catalogue_in_a_folder_that_is_not_there_is_refused(folder: str) -> None:
    url = "sqlite:////no/such/folder/catalogue.db"
    check_refused(run("serve", "--dir", folder, "--database-url", url), "database")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        f"mysql://x:{SECRET}@127.0.0.1/x",
        f"postgresql+asyncpg://x:{SECRET}@127.0.0.1:port/x",
        f"postgresql+asyncpg://x:{SECRET}@127.0.0.1:99999/x",
        f"postgresql+asyncpg://x:{SECRET}@[::1/x",
        f"postgresql+asyncpg://x:{SECRET}@127.0.0.1:1/x?nonsense=1",
        f"postgresql://x:{SECRET}@127.0.0.1:1/x?sslmode=require",
    ],
)
def test_nonsense_for_a_database_url_is_refused_and_no_password_shown(
    folder: str, url: str
) -> None:
    done = run("serve", "--dir", folder, "--database-url", url)
    check_refused(done, "database")
    assert SECRET not in done.stderr


@pytest.mark.parametrize("new_database_url", ["postgresql"], indirect=True)
def test_an_outdated_postgresql_schema_is_refused_and_the_remedy_named(
    folder: str, new_database_url: str
) -> None:
    done = run("serve", "--dir", folder, "--database-url", new_database_url)
    check_refused(done, "file-service migrate")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_password_of_the_database_is_in_no_line_of_the_log(
    make_service: MakeService, database_url: str
) -> None:
    url = sa.make_url(database_url).set(password=SECRET).render_as_string(hide_password=False)
    service = make_service("--log-level", "debug", "--database-url", url)
    assert service.stop(signal.SIGTERM) == 0
    service.wait_for("worker stopping")
    assert SECRET not in json.dumps(service.lines)


# --- migrate ---


def test_migrate_brings_an_empty_database_up_to_date_and_may_run_again(
    new_database_url: str,
) -> None:
    for _ in range(2):
        done = run("migrate", "--database-url", new_database_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert asyncio.run(count_files(new_database_url)) == 0


def test_migrate_may_run_four_times_at_once(new_database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run, "migrate", "--database-url", new_database_url) for _ in range(4)]
    done = [each.result() for each in runs]
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 4
    assert asyncio.run(count_files(new_database_url)) == 0


# --- scrub: what it finds is tested with the faults, in test_disk_bytes.py ---


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal of 40 rows and 100 columns: its user's end, and its program's."""
    ends = os.openpty()
    try:
        fcntl.ioctl(ends[1], termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_scrub_shows_its_progress_on_a_terminal_and_nowhere_else(
    make_service: MakeService, settings: Settings
) -> None:
    service = make_service()
    with urllib.request.urlopen(f"{service.url}/files/", data=bytes(3_000_000)) as answer:
        assert answer.status == 201
    scrub = ("scrub", "--dir", str(settings.dir), "--database-url", settings.database_url)
    assert run(*scrub).stderr == ""
    with terminal() as (user, program):
        subprocess.run(
            [sys.executable, "-m", "file_service", *scrub],
            env=service_environment(),
            stdout=subprocess.DEVNULL,
            stderr=program,
            check=True,
            timeout=60,
        )
        shown = os.read(user, 65_536).decode()
    assert "100%" in shown
    assert "3.00M/3.00M" in shown
