"""What a gigabyte in many requests costs, beside one request of ours and tus-node-server."""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

MIB = 1024 * 1024
PATCH_SIZE = 8 * MIB
START_SECONDS = 30
PEERS = Path(__file__).parent / "peers"
BLOCK = os.urandom(PATCH_SIZE)

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = TUS | {"Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True)
class Cost:
    """What one upload took: seconds as its client sees them, CPU seconds of the server."""

    seconds: float
    cpu: float


class Server:
    """A server process, and what it has cost until now."""

    def __init__(self, command: list[str], port: int, cwd: Path) -> None:
        self.port = port
        self._process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise TimeoutError("the server did not start")

    def cpu(self) -> float:
        """CPU seconds of the process, all its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)

    def connect(self) -> HTTPConnection:
        """Return a connection to it."""
        return HTTPConnection("127.0.0.1", self.port, timeout=120)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def ours(folder: Path) -> Iterator[Server]:
    """Start our own service, as its users do."""
    (folder / "files").mkdir(parents=True)
    port = free_port()
    database = f"sqlite+aiosqlite:///{folder}/catalogue.db"
    command = [sys.executable, "-m", "file_service", "serve", "--port", str(port), "--dir"]
    server = Server([*command, str(folder / "files"), "--database-url", database], port, Path.cwd())
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def tus_node_server(folder: Path) -> Iterator[Server]:
    """Start the reference server of tus for Node, its packages as locked beside it."""
    folder.mkdir()
    if not (PEERS / "node_modules").is_dir():
        npm = shutil.which("npm") or "npm"
        subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit"], cwd=PEERS, check=True)
    port = free_port()
    command = [shutil.which("node") or "node", "tus_server.mjs", str(port), str(folder)]
    server = Server(command, port, PEERS)
    try:
        yield server
    finally:
        server.stop()


def expect(answer: HTTPResponse, status: int) -> HTTPResponse:
    """Read an answer to its end; RuntimeError for another status."""
    body = answer.read()
    if answer.status != status:
        raise RuntimeError(f"{answer.status} instead of {status}: {body[:200]!r}")
    return answer


def upload_at_once(server: Server, size: int) -> None:
    """Upload by one request with Content-Length."""
    connection = server.connect()
    body = (BLOCK for _ in range(size // PATCH_SIZE))
    connection.request("POST", "/files/", body, {"Content-Length": str(size)})
    expect(connection.getresponse(), 201)
    connection.close()


def upload_in_patches(server: Server, size: int) -> None:
    """Upload by tus: a creation, and PATCHes of 8 MiB on one connection."""
    connection = server.connect()
    connection.request("POST", "/uploads", headers=TUS | {"Upload-Length": str(size)})
    path = urlsplit(expect(connection.getresponse(), 201).headers["Location"]).path
    for offset in range(0, size, PATCH_SIZE):
        connection.request("PATCH", path, BLOCK, BYTES | {"Upload-Offset": str(offset)})
        expect(connection.getresponse(), 204)
    connection.close()


def measure(server: Server, work: Callable[[Server, int], None], size: int) -> Cost:
    """Do one upload and tell what it took."""
    started, cpu = time.perf_counter(), server.cpu()
    work(server, size)
    return Cost(time.perf_counter() - started, server.cpu() - cpu)


def main() -> None:
    """Interleave the rows, so that a noisy machine is noisy for all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB of each upload (1024)")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    size = flags.size * MIB
    with tempfile.TemporaryDirectory(prefix="file-service-bench-") as name:
        folder = Path(name)
        with ours(folder / "ours") as service, tus_node_server(folder / "node") as node:
            rows: dict[str, tuple[Server, Callable[[Server, int], None]]] = {
                "one request": (service, upload_at_once),
                "8 MiB PATCHes": (service, upload_in_patches),
                "tus-node-server, 8 MiB PATCHes": (node, upload_in_patches),
            }
            costs: dict[str, list[Cost]] = {row: [] for row in rows}
            for _ in range(flags.rounds):
                for row, (server, work) in rows.items():
                    costs[row].append(measure(server, work, size))
                    clean(folder)
    print_table(costs, size / MIB / 1024)


def clean(folder: Path) -> None:
    """Make room: what is measured is the upload, not a disk that fills up."""
    for path in (*folder.glob("ours/files/blobs/*/*"), *folder.glob("node/*")):
        path.unlink()


def print_table(costs: dict[str, list[Cost]], gib: float) -> None:
    """Print medians, and the rate beside that of one request."""
    base = median(cost.seconds for cost in costs["one request"])
    lines = [
        "| row | MiB/s | server CPU s per GiB | rate beside one request |",
        "|---|---:|---:|---:|",
    ]
    for row, found in costs.items():
        seconds = median(cost.seconds for cost in found)
        cpu = median(cost.cpu for cost in found) / gib
        lines.append(f"| {row} | {gib * 1024 / seconds:.0f} | {cpu:.2f} | {base / seconds:.2f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
