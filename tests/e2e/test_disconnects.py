"""Clients that vanish: nothing of theirs stays behind, and no error is made of it in the log."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.conftest import Leftovers
from tests.e2e.conftest import DEADLINE_SECONDS, ask_once, descriptors_of, eventually
from tests.processes import ServiceProcess

# Nothing here depends on which database it is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MIB = 1024 * 1024
# More than the buffers of both sockets can swallow.
LARGE = 48 * MIB


def reset(sock: socket.socket) -> None:
    """Vanish without a word: what the peer gets is RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def finish(sock: socket.socket) -> None:
    """Close in good manners: what the peer gets is FIN, then RST for what it still sends."""
    sock.close()


Leave = Callable[[socket.socket], None]

FORM = (
    b"--b\r\nContent-Disposition: form-data; name=title\r\n\r\nx\r\n"
    b"--b\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\nwhole\r\n"
    b"--b\r\nContent-Disposition: form-data; name=b; filename=b\r\n\r\n"
)
FORM_TYPE = b"Content-Type: multipart/form-data; boundary=b\r\n"
BODIES = {
    "with a length": (b"Content-Length: 8388608\r\n", b""),
    "in chunks": (b"Transfer-Encoding: chunked\r\n", b"800000\r\n"),
    "as a form": (FORM_TYPE + b"Content-Length: 8388608\r\n", FORM),
}


def call(service: ServiceProcess, request: bytes) -> socket.socket:
    address = urlsplit(service.url)
    sock = socket.create_connection((address.hostname, address.port or 0), DEADLINE_SECONDS)
    sock.sendall(request)
    return sock


def wait_for_request(service: ServiceProcess, method: str) -> None:
    """Wait until the log tells that a request of this method has ended."""
    eventually(
        lambda: any(line.get("method") == method for line in service.lines),
        f"the end of a {method}",
    )


def check_calm(service: ServiceProcess, capfd: pytest.CaptureFixture[str]) -> None:
    """The service works on, ends well, and has complained about nothing."""
    assert ask_once(service, "GET", "/healthz").status == 200
    assert service.stop() == 0
    service.wait_for("worker stopping")
    for line in service.lines:
        assert "traceback" not in line, line["traceback"]
        assert line["level"] in {"debug", "info"}, line
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("leave", [reset, finish])
@pytest.mark.parametrize("body", BODIES)
def test_an_upload_whose_client_vanishes_leaves_nothing(
    capfd: pytest.CaptureFixture[str],
    service: ServiceProcess,
    leftovers: Leftovers,
    leave: Leave,
    *,
    body: str,
) -> None:
    headers, beginning = BODIES[body]
    sock = call(service, b"POST /files/ HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + beginning)
    with sock:
        sock.sendall(bytes(4 * MIB))
        eventually(lambda: bool(leftovers.files()), "the beginning of the file")
        leave(sock)
        eventually(lambda: leftovers.files() == [], "the removal of what had arrived")
    assert asyncio.run(leftovers.rows()) == 0
    wait_for_request(service, "POST")
    check_calm(service, capfd)


def test_a_client_that_only_stops_sending_is_told_what_is_missing(
    capfd: pytest.CaptureFixture[str], service: ServiceProcess, leftovers: Leftovers
) -> None:
    request = b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n"
    with call(service, request + bytes(4 * MIB)) as sock:
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"/problems/cut-short"' in answer
    assert leftovers.files() == []
    check_calm(service, capfd)


@pytest.mark.parametrize("leave", [reset, finish])
def test_a_download_whose_client_vanishes_lets_go_of_the_file(
    capfd: pytest.CaptureFixture[str],
    service: ServiceProcess,
    leftovers: Leftovers,
    leave: Leave,
) -> None:
    content = os.urandom(LARGE)
    path = ask_once(service, "POST", "/files/", content).headers["location"]
    (blob,) = leftovers.files()

    def is_open() -> bool:
        return any(name.endswith(blob) for name in descriptors_of(service.process.pid))

    eventually(lambda: not is_open(), "the end of the upload")
    with call(service, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as sock:
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        assert is_open()
        leave(sock)
        eventually(lambda: not is_open(), "the closing of the file")
    wait_for_request(service, "GET")
    assert leftovers.files() == [blob]
    assert ask_once(service, "GET", path).body == content
    check_calm(service, capfd)
