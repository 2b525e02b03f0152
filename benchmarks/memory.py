"""How much memory, time and CPU the server needs for 1 GiB up and down, and for 100 at once."""

import argparse
import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

PIECE = MIB  # sent at once by one client
SMALL_PIECE = 64 * KIB  # sent at once by each of many
AT_ONCE = 100
EACH = 10 * MIB
SAMPLE_SECONDS = 0.02
START_SECONDS = 30

PATTERN = os.urandom(PIECE)
BOUNDARY = "a-boundary-that-does-not-occur"
FORM_HEAD = (
    f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=title\r\n\r\nmemory\r\n"
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename="large.bin"\r\n\r\n'
).encode()
FORM_TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


# --- the body: generated, in one buffer that is used again and again ---


def make_pieces(size: int, piece: int) -> Iterator[memoryview]:
    """Yield `size` bytes; each piece tells its place, so that none can be lost or exchanged."""
    buffer = bytearray(PATTERN[:piece])
    for offset in range(0, size, piece):
        struct.pack_into(">Q", buffer, 0, offset)
        yield memoryview(buffer)[: min(piece, size - offset)]


@cache
def digest_of(size: int, piece: int) -> str:
    """Return the Repr-Digest of that body."""
    sha256 = hashlib.sha256()
    for each in make_pieces(size, piece):
        sha256.update(each)
    return f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"


# --- the server: a process of its own, watched from outside ---


@dataclass(frozen=True)
class Server:
    """A running service of one worker."""

    process: "subprocess.Popen[bytes]"
    address: tuple[str, int]

    def resident(self) -> int:
        """Return the bytes of its memory that are resident now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(match[1]) * KIB if match else 0

    def cpu_seconds(self) -> float:
        """Return the time it has had on a processor, its own and the system's for it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(folder: Path, database_url: str) -> Iterator[Server]:
    """Run a service on `folder`, warmed up by small requests; it must end with 0."""
    flags = ("--port", "0", "--dir", str(folder), "--database-url", database_url)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FILE_SERVICE_")
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "file_service", "serve", *flags],
            stdout=log,
            cwd=folder,  # where no .env is
            env=environment,
        )
        try:
            server = Server(process, read_address(process, log.fileno()))
            warm_up(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    if process.returncode:
        raise SystemExit(f"the service ended with {process.returncode}")


def read_address(process: "subprocess.Popen[bytes]", log: int) -> tuple[str, int]:
    """Wait for the first line of the log, which tells where the service listens."""
    deadline = time.monotonic() + START_SECONDS
    while b"\n" not in (text := os.pread(log, 64 * KIB, 0)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the service did not start")
        time.sleep(SAMPLE_SECONDS)
    message = json.loads(text.splitlines()[0])["message"]
    url = urlsplit(message.removeprefix("listening on "))
    return str(url.hostname), int(url.port or 0)


def warm_up(server: Server) -> None:
    """Go once through each way that is measured, with next to nothing."""
    for _ in range(5):
        for upload in (upload_in_chunks, upload_of_length, upload_by_form):
            path = upload(server.address, KIB)
            download(server.address, path, KIB)
            delete(server.address, path)


# --- the client: bare sockets, so that it is not what is measured ---

Address = tuple[str, int]


def send(sock: socket.socket, method: str, path: str, *headers: str) -> None:
    """Send the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())


def answer_of(sock: socket.socket, method: str, status: int) -> http.client.HTTPResponse:
    """Read the head of the answer, which must have this status."""
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    if response.status != status:
        raise SystemExit(f"{method} was answered {response.status}: {response.read()!r}")
    return response


def check_digest(response: http.client.HTTPResponse, expected: str) -> None:
    """End the run where the bytes did not arrive whole."""
    answered = response.getheader("Repr-Digest")
    if answered != expected:
        raise SystemExit(f"the service has {answered}, but {expected} was sent")


def finish_upload(sock: socket.socket, method: str, size: int, piece: int) -> str:
    """Return the path of the new file once it is known to be the one that was sent."""
    response = answer_of(sock, method, 201)
    check_digest(response, digest_of(size, piece))
    return str(response.getheader("Location"))


def upload_in_chunks(address: Address, size: int) -> str:
    """POST a raw body whose length is not told."""
    with socket.create_connection(address) as sock:
        send(sock, "POST", "/files/", "Transfer-Encoding: chunked")
        for piece in make_pieces(size, PIECE):
            sock.sendall(b"%x\r\n" % len(piece))
            sock.sendall(piece)
            sock.sendall(b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        return finish_upload(sock, "POST", size, PIECE)


def upload_of_length(address: Address, size: int) -> str:
    """PUT a raw body with its length."""
    with socket.create_connection(address) as sock:
        send(sock, "PUT", "/files/large.bin", f"Content-Length: {size}")
        for piece in make_pieces(size, PIECE):
            sock.sendall(piece)
        return finish_upload(sock, "PUT", size, PIECE)


def upload_by_form(address: Address, size: int) -> str:
    """POST a form with a text field and the file."""
    length = len(FORM_HEAD) + size + len(FORM_TAIL)
    form = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    with socket.create_connection(address) as sock:
        send(sock, "POST", "/files/", f"Content-Length: {length}", form)
        sock.sendall(FORM_HEAD)
        for piece in make_pieces(size, PIECE):
            sock.sendall(piece)
        sock.sendall(FORM_TAIL)
        return finish_upload(sock, "POST", size, PIECE)


def upload_many(address: Address, size: int) -> list[str]:
    """PUT AT_ONCE files of `size` bytes, none of which ends before all have begun."""
    everyone = threading.Barrier(AT_ONCE)

    def upload(_number: int) -> str:
        with socket.create_connection(address) as sock:
            send(sock, "PUT", "/files/one.bin", f"Content-Length: {size}")
            for at, piece in enumerate(make_pieces(size, SMALL_PIECE)):
                if at == 1:
                    everyone.wait()
                sock.sendall(piece)
            return finish_upload(sock, "PUT", size, SMALL_PIECE)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(upload, range(AT_ONCE)))


def download(address: Address, path: str, size: int) -> None:
    """GET a file and compare it, byte for byte, with what was sent."""
    buffer = memoryview(bytearray(PIECE))
    with socket.create_connection(address) as sock:
        send(sock, "GET", path)
        response = answer_of(sock, "GET", 200)
        check_digest(response, digest_of(size, PIECE))
        for expected in make_pieces(size, PIECE):
            view = buffer[: len(expected)]
            filled = 0
            while filled < len(view) and (count := response.readinto(view[filled:])):
                filled += count
            if view != expected:
                raise SystemExit("the download is not what was uploaded")


def delete(address: Address, path: str) -> None:
    """DELETE a file."""
    with socket.create_connection(address) as sock:
        send(sock, "DELETE", path)
        answer_of(sock, "DELETE", 204)


# --- the measurement ---


@dataclass(frozen=True)
class Work:
    """Something to do, in bytes, and by how many MiB the server may grow meanwhile.

    `act` returns the paths of the files that are to go afterwards.
    """

    name: str
    size: int
    bar: int
    act: Callable[[Address], list[str]]


@dataclass(frozen=True)
class Figures:
    """What one work took."""

    growth: float  # MiB
    seconds: float
    cpu_seconds: float


class Watch:
    """Samples a server's resident memory, until the block ends; `peak` in bytes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.peak = server.resident()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._server.resident())


def measure(server: Server, work: Work) -> Figures:
    """Do the work on a warm server and return what it took; then remove its files."""
    resident, cpu, started = server.resident(), server.cpu_seconds(), time.perf_counter()
    with Watch(server) as watch:
        paths = work.act(server.address)
    seconds, cpu = time.perf_counter() - started, server.cpu_seconds() - cpu
    for path in paths:
        delete(server.address, path)
    return Figures((watch.peak - resident) / MIB, seconds, cpu)


def make_works(size: int, stored: str) -> list[Work]:
    """Return what is measured; `stored` is the path of a file of `size` bytes."""
    amount = f"{size // MIB} MiB" if size % GIB else f"{size // GIB} GiB"

    def get(address: Address) -> list[str]:
        download(address, stored, size)
        return []

    return [
        Work(f"{amount} up, chunked", size, 48, lambda to: [upload_in_chunks(to, size)]),
        Work(f"{amount} up, Content-Length", size, 48, lambda to: [upload_of_length(to, size)]),
        Work(f"{amount} up, form", size, 48, lambda to: [upload_by_form(to, size)]),
        Work(f"{amount} down", size, 48, get),
        Work(
            f"{AT_ONCE} of {EACH // MIB} MiB up at once",
            AT_ONCE * EACH,
            96,
            lambda to: upload_many(to, EACH),
        ),
    ]


def print_row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def print_figures(work: Work, took: Figures) -> bool:
    """Print what a work took; return whether it kept its bar."""
    is_kept = took.growth <= work.bar
    print_row(
        work.name,
        f"{took.growth:.1f}",
        work.bar,
        "ok" if is_kept else "MISSED",
        f"{took.seconds:.1f}",
        f"{took.cpu_seconds / (work.size / GIB):.2f}",
    )
    return is_kept


def measure_all(folder: Path, database_url: str, size: int) -> bool:
    """Print the table, each work on a server of its own; return whether every bar was kept."""
    digest_of(size, PIECE)  # remembered, so that no time goes into them later
    digest_of(EACH, SMALL_PIECE)
    with running(folder, database_url) as server:
        stored = upload_of_length(server.address, size)
    print_row("work", "growth, MiB", "bar, MiB", "verdict", "seconds", "server CPU s per GiB")
    print_row("---", "---:", "---:", "---", "---:", "---:")
    kept = []
    for work in make_works(size, stored):
        with running(folder, database_url) as server:
            took = measure(server, work)
        kept.append(print_figures(work, took))
    with running(folder, database_url) as server:
        delete(server.address, stored)
    return all(kept)


def main() -> int:
    """Measure, and exit with 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB up and down (1024)")
    parser.add_argument(
        "--database-url", help="a migrated catalogue (SQLite in a temporary folder)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="file-service-memory-") as name:
        folder = Path(name, "files")
        folder.mkdir()
        database_url = arguments.database_url or f"sqlite+aiosqlite:///{name}/catalogue.db"
        return 0 if measure_all(folder, database_url, arguments.size * MIB) else 1


if __name__ == "__main__":
    sys.exit(main())
