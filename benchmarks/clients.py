"""Clients of bare sockets, so cheap that it is not they who are measured.

What is sent is made while it is sent, in one buffer that is used again and again; each MiB of it
holds its own position, so that none can be lost or exchanged unnoticed.
"""

import base64
import hashlib
import http.client
import io
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from functools import cache
from urllib.parse import urlsplit

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

PIECE = MIB
FRAME = 64 * KIB
PATCH = 8 * MIB
TIMEOUT_SECONDS = 120

Address = tuple[str, int]

_PATTERN = os.urandom(PIECE)
_BOUNDARY = "a-boundary-that-does-not-occur"
_FORM_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()
_TUS = ("Tus-Resumable: 1.0.0",)


class Refused(Exception):
    """A server answered something else than what the benchmark is about."""


@dataclass(frozen=True)
class Target:
    """Where a system takes uploads, and how a form calls the file."""

    method: str
    path: str
    field: str = "file"
    form_path: str = ""  # where forms go, if elsewhere


@dataclass(frozen=True)
class Stored:
    """An upload that succeeded."""

    path: str
    digest: str | None  # as Repr-Digest has it


# --- the body ---


def make_pieces(size: int, piece: int = PIECE) -> Iterator[memoryview]:
    """Yield `size` bytes; each piece tells its place."""
    buffer = bytearray(_PATTERN[:piece])
    for offset in range(0, size, piece):
        struct.pack_into(">Q", buffer, 0, offset)
        yield memoryview(buffer)[: min(piece, size - offset)]


def make_frames(size: int) -> Iterator[bytes | bytearray]:
    """Yield the same bytes as a chunked body in frames of 64 KiB, sixteen of them at once."""
    head = b"%x\r\n" % FRAME
    frames = (head + _PATTERN[at : at + FRAME] + b"\r\n" for at in range(0, PIECE, FRAME))
    buffer = bytearray(b"".join(frames))
    whole = size - size % PIECE
    for offset in range(0, whole, PIECE):
        struct.pack_into(">Q", buffer, len(head), offset)
        yield buffer
    if size > whole:
        rest = (struct.pack(">Q", whole) + _PATTERN[8:])[: size - whole]
        yield b"%x\r\n%b\r\n" % (len(rest), rest)
    yield b"0\r\n\r\n"


@cache
def digest_of(size: int, piece: int = PIECE) -> str:
    """Return the Repr-Digest of that body."""
    sha256 = hashlib.sha256()
    for each in make_pieces(size, piece):
        sha256.update(each)
    return f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"


# --- requests and answers ---


@dataclass(frozen=True)
class Answer:
    """The head of an answer, and what of its body came along with it."""

    status: int
    headers: Message
    start: bytes

    @property
    def length(self) -> int:
        """How long the body is said to be."""
        return int(self.headers.get("Content-Length") or 0)


def connect(address: Address) -> socket.socket:
    """Return a connection; the kernel holds back nothing of what is sent."""
    sock = socket.create_connection(address, TIMEOUT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def send_head(sock: socket.socket, method: str, path: str, *headers: str) -> None:
    """Send the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())


def receive_head(sock: socket.socket, status: int) -> Answer:
    """Receive the head of an answer; Refused where its status is another one."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (more := sock.recv(FRAME)):
            raise Refused(f"the connection ended after {received!r}")
        received += more
    head, _, start = received.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    answer = Answer(int(line.split()[1]), headers, start)
    if answer.status != status:
        raise Refused(f"{answer.status} instead of {status}: {head!r} {start!r}")
    return answer


def receive_body(sock: socket.socket, answer: Answer) -> bytes:
    """Receive the rest of a short answer."""
    received = answer.start
    while len(received) < answer.length:
        received += sock.recv(answer.length - len(received))
    return received


def ask(address: Address, method: str, path: str, status: int, *headers: str) -> Answer:
    """Send a request without a body; return the head of the answer."""
    with connect(address) as sock:
        send_head(sock, method, path, "Connection: close", *headers)
        return receive_head(sock, status)


# --- uploads in one request ---


def upload_chunked(address: Address, target: Target, size: int) -> Stored:
    """Upload a body whose length is not told."""
    with connect(address) as sock:
        send_head(
            sock, target.method, target.path, "Connection: close", "Transfer-Encoding: chunked"
        )
        for frames in make_frames(size):
            sock.sendall(frames)
        return _finish(sock, target)


def upload_length(address: Address, target: Target, size: int) -> Stored:
    """Upload a body with its length."""
    with connect(address) as sock:
        length = f"Content-Length: {size}"
        send_head(sock, target.method, target.path, "Connection: close", length)
        for piece in make_pieces(size):
            sock.sendall(piece)
        return _finish(sock, target)


def upload_form(address: Address, target: Target, size: int) -> Stored:
    """Upload by a form, as a browser would."""
    head = _form_head(target.field, target.path.rpartition("/")[2] or "large.bin")
    length = len(head) + size + len(_FORM_TAIL)
    path = target.form_path or target.path
    media_type = f"Content-Type: multipart/form-data; boundary={_BOUNDARY}"
    with connect(address) as sock:
        length_field = f"Content-Length: {length}"
        send_head(sock, "POST", path, "Connection: close", length_field, media_type)
        sock.sendall(head)
        for piece in make_pieces(size):
            sock.sendall(piece)
        sock.sendall(_FORM_TAIL)
        return _finish(sock, target)


def _form_head(field: str, name: str) -> bytes:
    # copyparty's form says first what it is about; for others, it is one more text field.
    return (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="act"\r\n\r\nbput\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _finish(sock: socket.socket, target: Target) -> Stored:
    answer = receive_head(sock, 201)
    path = urlsplit(answer.headers.get("Location", target.path)).path
    return Stored(path, answer.headers.get("Repr-Digest"))


def upload_together(address: Address, targets: Sequence[Target], size: int) -> list[Stored]:
    """Upload a file to each target at once; none goes past its first 64 KiB before all have."""
    everyone = threading.Barrier(len(targets), timeout=TIMEOUT_SECONDS)

    def upload(target: Target) -> Stored:
        with connect(address) as sock:
            length = f"Content-Length: {size}"
            send_head(sock, target.method, target.path, "Connection: close", length)
            for at, piece in enumerate(make_pieces(size, FRAME)):
                if at == 1:
                    everyone.wait()
                sock.sendall(piece)
            return _finish(sock, target)

    with ThreadPoolExecutor(len(targets)) as pool:
        return list(pool.map(upload, targets))


# --- uploads in many requests ---


def upload_patches(address: Address, path: str, size: int) -> None:
    """Upload by tus: a creation at `path`, and PATCHes of 8 MiB on the same connection."""
    block = _PATTERN * (PATCH // PIECE)
    media_type = "Content-Type: application/offset+octet-stream"
    with connect(address) as sock:
        send_head(sock, "POST", path, *_TUS, "Content-Length: 0", f"Upload-Length: {size}")
        answer = receive_head(sock, 201)
        receive_body(sock, answer)
        upload = urlsplit(answer.headers["Location"]).path
        for offset in range(0, size, PATCH):
            body = memoryview(block)[: min(PATCH, size - offset)]
            lengths = (f"Upload-Offset: {offset}", f"Content-Length: {len(body)}")
            send_head(sock, "PATCH", upload, *_TUS, media_type, *lengths)
            sock.sendall(body)
            receive_body(sock, receive_head(sock, 204))


# --- downloads ---


def download(address: Address, path: str, size: int) -> None:
    """GET a file and count its bytes, which the kernel throws away uncopied."""
    with connect(address) as sock:
        send_head(sock, "GET", path, "Connection: close")
        answer = receive_head(sock, 200)
        if answer.length != size:
            raise Refused(f"the download is {answer.length} bytes long, not {size}")
        missing, sink = size - len(answer.start), bytearray(PIECE)
        while missing:
            count = sock.recv_into(sink, min(PIECE, missing), socket.MSG_TRUNC)
            if not count:
                raise Refused(f"{missing} bytes of the download are missing")
            missing -= count


def compare(address: Address, path: str, size: int) -> None:
    """GET a file and compare it, byte for byte, with what was sent."""
    buffer = memoryview(bytearray(PIECE))
    with connect(address) as sock:
        send_head(sock, "GET", path, "Connection: close")
        answer = receive_head(sock, 200)
        start = answer.start
        for expected in make_pieces(size):
            view = buffer[: len(expected)]
            filled = min(len(start), len(view))
            view[:filled], start = start[:filled], start[filled:]
            while filled < len(view) and (count := sock.recv_into(view[filled:])):
                filled += count
            if view != expected:
                raise Refused("the download is not what was uploaded")
