"""The systems that are measured, each started as its own documentation has it in production."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.clients import Target
from benchmarks.processes import Server

PEERS = Path(__file__).parent / "peers"
START_SECONDS = 30


class Missing(RuntimeError):
    """A program that a system consists of is not installed."""


@dataclass(frozen=True)
class System:
    """How to start a system on a folder and a port, and where it takes and keeps files."""

    name: str
    command: Callable[[Path, int], Sequence[str]]
    method: str = "POST"
    uploads: str = "/files/"
    field: str = "file"
    forms: str = ""
    kept: str = "files/*"  # the files that it keeps, as a pattern below its folder
    program: str = ""  # what must be installed, of Debian's packages
    module: str = ""  # and of Python's

    def check(self) -> None:
        """Raise Missing where it is not installed."""
        if self.program:
            find_program(self.program)
        if self.module and importlib.util.find_spec(self.module) is None:
            raise Missing(f"the Python package {self.module} is not installed")
        if self.program == "node" and not (PEERS / "node_modules").is_dir():
            raise Missing("benchmarks/peers/node_modules is not there")

    def target(self, name: str) -> Target:
        """Return where to upload; the name counts where the caller chooses the path."""
        path = self.uploads + name if self.method == "PUT" else self.uploads
        return Target(self.method, path, self.field, self.forms)

    def clean(self, folder: Path, spared: Iterable[str] = ()) -> None:
        """Remove what was uploaded, behind the server's back; files with these names stay."""
        names = frozenset(spared)
        for path in folder.glob(self.kept):
            if path.name not in names and path.is_file():
                path.unlink()


def find_program(name: str) -> str:
    """Return the path of a program; Missing where there is none."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def _ours(folder: Path, port: int) -> Sequence[str]:
    database = f"sqlite:///{folder}/catalogue.db"
    places = ("--dir", str(folder / "files"), "--database-url", database)
    return (sys.executable, "-m", "file_service", "serve", "--port", str(port), *places)


def _nginx(folder: Path, port: int) -> Sequence[str]:
    # Root's nginx would have its workers be somebody who may not enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    template = Template((PEERS / "nginx.conf").read_text())
    config = folder / "nginx.conf"
    config.write_text(template.substitute(folder=folder, port=port, user=user))
    return find_program("nginx"), "-e", str(folder / "error.log"), "-c", str(config)


def _starlette(_folder: Path, port: int) -> Sequence[str]:
    module = "benchmarks.peers.starlette_app:app"
    return sys.executable, "-m", "uvicorn", module, "--host", "127.0.0.1", "--port", str(port)


def _copyparty(folder: Path, port: int) -> Sequence[str]:
    volume = f"{folder / 'files'}::rw"
    flags = ("-i", "127.0.0.1", "-p", str(port), "-v", volume)
    return (sys.executable, "-m", "copyparty", *flags)


def _article(_folder: Path, port: int) -> Sequence[str]:
    return sys.executable, "-m", "benchmarks.peers.article", str(port)


def _tus_node(folder: Path, port: int) -> Sequence[str]:
    return find_program("node"), str(PEERS / "tus_server.mjs"), str(port), str(folder / "files")


OURS = System("ours", _ours, kept="files/blobs/*/*")
NGINX = System("nginx", _nginx, "PUT", "/", program="nginx")
STARLETTE = System("starlette", _starlette, forms="/form/", module="uvicorn")
COPYPARTY = System("copyparty", _copyparty, "PUT", "/", field="f", forms="/", module="copyparty")
ARTICLE = System("article", _article)
TUS_NODE = System("tus-node", _tus_node, uploads="/uploads", program="node")


@contextmanager
def running(system: System, folder: Path, *flags: str) -> Iterator[Server]:
    """Run a system on `folder`, made where it is missing, until the block ends.

    What it says goes into a file, as a log would.
    """
    (folder / "files").mkdir(parents=True, exist_ok=True)
    port = find_port()
    command = [*system.command(folder, port), *flags]
    with (folder / "output.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,  # where no .env is
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(system.name, process, ("127.0.0.1", port), folder)
    try:
        wait_until_up(server)
        yield server
    finally:
        status = server.stop()
    if status and system is OURS:
        raise RuntimeError(f"the service ended with {status}: {last_words(folder)}")


def _environment(folder: Path) -> Mapping[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("FILE_SERVICE_")}
    root = str(PEERS.parents[1])
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH")))),
        "BENCH_FOLDER": str(folder / "files"),
        "BENCH_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/files.db",
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


def find_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until_up(server: Server) -> None:
    """Wait until it accepts connections; RuntimeError with its last words where it ends."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with suppress(OSError):
            socket.create_connection(server.address, 1).close()
            return
        time.sleep(0.02)
    raise RuntimeError(f"{server.name} did not start: {last_words(server.folder)}")


def last_words(folder: Path) -> str:
    """Return the end of what a server on this folder said."""
    words = b"".join(path.read_bytes()[-2000:] for path in folder.glob("*.log"))
    return words.decode(errors="replace")
