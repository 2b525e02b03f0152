#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["aiohttp>=3.14.4,<4", "aiofiles>=25.1", "tqdm>=4.67"]
# ///
"""Upload files and print their ids: each in one request, or with --resume in many."""

import argparse
import asyncio
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiofiles
import aiofiles.os
import aiohttp
from aiofiles.threadpool.binary import AsyncFileIO
from tqdm import tqdm

PROGRAM = "upload.py"
CONNECT_SECONDS = 10.0

# From the last byte of the body to the answer. There is no limit on the upload itself: aiohttp
# starts this clock only when the body is written. What is written may still lie in the kernel's
# send buffer (4 MiB, minutes on a slow line) or in a proxy that passes it on only when it has it
# all, hence the generous figure.
ANSWER_SECONDS = 600.0

LARGEST_CHUNK = 1024**3
LONGEST_ANSWER = 64 * 1024
LONGEST_MESSAGE = 1000

_SIZE = re.compile(
    r"\s*(\d+(?:_\d+)*|\d*\.\d+)\s*(?:([kmgtpe])(i)?)?(b|bit)?\s*", re.IGNORECASE | re.ASCII
)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_ATTR_CHARS = "!#$&+-.^_`|~"  # RFC 8187 §3.2.1, less what quote() never encodes


class UploadFailed(Exception):
    """Why there is no id to print, in words for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for: a file, where it goes, how many bytes are read at a time."""

    path: Path
    url: str
    chunk_size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; `body` has at most about LONGEST_ANSWER bytes."""

    status: int
    reason: str
    media_type: str
    location: str
    body: bytes


# ── parse: the command line ──


def parse_flags(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read flags, and the service's own variables for what they leave out; exit 2 if unusable."""
    parser = _make_parser()
    flags = parser.parse_args(arguments)
    flags.is_lone = len(flags.path) == 1 and not flags.paths
    flags.paths = [*flags.path, *flags.paths]
    if not flags.paths:
        parser.error("name what to upload: PATH, or --path PATH")
    flags.resume = flags.resume or flags.parallel > 1 or flags.state is not None
    url = flags.url if flags.url is not None else "uploads/" if flags.resume else "files/"
    flags.url = f"{flags.protocol}://{flags.host}:{flags.port}/{url.lstrip('/')}"
    return flags


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--protocol", choices=["http", "https"], default="http", help="default: http")
    add(
        "--host",
        type=parse_host,
        default=_variable("HOST", "127.0.0.1"),
        help="default: $FILE_SERVICE_HOST, else 127.0.0.1",
    )
    add(
        "--port",
        type=parse_port,
        default=_variable("PORT", "8080"),
        help="default: $FILE_SERVICE_PORT, else 8080",
    )
    add("--url", help="path on the server, default: files/, with --resume uploads/")
    add(
        "--chunk_size",
        type=parse_size,
        default=_variable("CHUNK", "65536"),
        help="bytes sent at a time, 256KiB for example; default: $FILE_SERVICE_CHUNK, else 65536",
    )
    add("--path", type=Path, action="append", default=[], help="a file to upload; may be repeated")
    add("paths", type=Path, nargs="*", metavar="PATH", help="files, and folders with all in them")
    add("--resume", action="store_true", help="go on where an interrupted run stopped")
    add("--parallel", type=parse_count, default=1, help="parts of a file sent at once; resumes")
    add("--retries", type=parse_count, default=10, help="attempts without progress, default: 10")
    add("--state", type=Path, help="file that remembers unfinished uploads; resumes")
    return parser


def parse_count(text: str) -> int:
    """Return a number of attempts, or of parts."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 100")
    return int(text)


def parse_host(text: str) -> str:
    """Return the host as a URL has it; for the address that a server binds to, its loopback."""
    bare = text.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        if re.fullmatch(r"[^\s:/?#@\\\[\]]+", text) is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no host name or address") from None
        return text
    if address.version == 4:
        return "127.0.0.1" if address.is_unspecified else bare
    return "[::1]" if address.is_unspecified else f"[{bare}]"


def parse_port(text: str) -> int:
    """Return a port that can be connected to."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")
    return int(text)


def parse_size(text: str) -> int:
    """Return a number of bytes, read as the service reads FILE_SERVICE_CHUNK: 65536, 1MB, 1MiB."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in bytes, like 65536 or 256KiB")
    number, prefix, binary, unit = match.groups()
    power = "kmgtpe".index(prefix.lower()) + 1 if prefix else 0
    size = float(number) * (1024 if binary else 1000) ** power
    if (unit or "b").lower() == "bit":
        size /= 8
    if not 1 <= size <= LARGEST_CHUNK:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1 byte to {LARGEST_CHUNK} bytes")
    return int(size)


def _variable(name: str, default: str) -> str:
    return os.environ.get(f"FILE_SERVICE_{name}") or default


# ── act: the upload ──


class Body:
    """The bytes to send, and what became of them, which aiohttp does not tell afterwards."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.is_complete = False
        self.error: OSError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks; note the end, or the error of the file that forestalled it."""
        try:
            async for chunk in self._chunks:
                yield chunk
        except OSError as error:
            self.error = error
            raise
        self.is_complete = True


class Sockets:
    """Every socket aiohttp opens, held a second time, to read what it leaves unread.

    A server may refuse an upload half-way and close. Whoever sends into that closed connection gets
    an error, and asyncio then drops the socket with the answer that has already arrived in it.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def open(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Make a socket for aiohttp, and hold it."""
        family, kind, protocol, *_ = address
        sock = socket.socket(family, kind, protocol)
        self._held.append(sock.dup())
        return sock

    def read_answer(self) -> Answer | None:
        """Return the answer left in a broken connection; None without one, and under TLS."""
        for sock in self._held:
            with suppress(OSError, http.client.HTTPException):
                return _read_late_answer(sock)
        return None

    def close(self) -> None:
        """Let go of the sockets."""
        for sock in self._held:
            sock.close()


async def upload(order: Order) -> str:
    """Upload the file, with a progress bar on a terminal; return its id, or raise UploadFailed."""
    try:
        async with aiofiles.open(order.path, "rb", buffering=0) as file:
            with await _open_bar(order.path) as bar:
                body = Body(read_chunks(file, order.chunk_size, bar, int(bar.total or 0)))
                answer = await send(body, order.url, order.path.name)
                await asyncio.sleep(0.05)  # aiohttp's sockets close on the loop's next rounds
    except OSError as error:
        raise UploadFailed(f"cannot read {order.path}: {explain(error)}") from error
    return read_id(answer, is_complete=body.is_complete)


async def read_chunks(
    file: AsyncFileIO, size: int, bar: "tqdm[Any]", expected: int
) -> AsyncIterator[bytes]:
    """Yield the file in chunks of `size` bytes, the last one shorter; the bar counts those sent.

    OSError where there are fewer bytes than `expected`: what was sent is no file that ever was.
    """
    left = expected
    while chunk := await file.read(size):
        left -= len(chunk)
        yield chunk
        bar.update(len(chunk))
    if left > 0:
        raise OSError("it became shorter while it was sent")


async def send(body: Body, url: str, name: str) -> Answer:
    """POST the body; UploadFailed without an answer, and the OSError of a body that broke."""
    with closing(Sockets()) as sockets:
        try:
            return await _post(body, url, name, sockets)
        except (aiohttp.ClientError, OSError) as error:
            if body.error is not None:
                raise body.error from None
            late = sockets.read_answer() if isinstance(error, aiohttp.ClientOSError) else None
            if late is None:
                raise UploadFailed(_explain_break(error, url, body)) from error
            return late


async def _post(body: Body, url: str, name: str, sockets: Sockets) -> Answer:
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
    connector = aiohttp.TCPConnector(socket_factory=sockets.open)
    headers = {
        "Accept": "text/plain",
        "Content-Disposition": format_disposition(name),
        "Content-Type": "application/octet-stream",  # the service guesses a better one by the name
    }
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        # A body that cannot be read twice cannot follow a redirect.
        session.post(url, data=body, headers=headers, allow_redirects=False) as response,
    ):
        return await _read_answer(response)


async def _read_answer(response: aiohttp.ClientResponse) -> Answer:
    body = bytearray()
    with suppress(aiohttp.ClientError, OSError):  # the status alone tells most
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > LONGEST_ANSWER:
                break
    return Answer(
        status=response.status,
        reason=response.reason or "",
        media_type=response.content_type,
        location=response.headers.get("Location", ""),
        body=bytes(body),
    )


def _read_late_answer(sock: socket.socket) -> Answer:
    sock.settimeout(1.0)  # all there will ever be is there already
    with closing(http.client.HTTPResponse(sock, method="POST")) as response:
        response.begin()
        body = b""
        with suppress(OSError, http.client.HTTPException):
            body = response.read(LONGEST_ANSWER)
        return Answer(
            status=response.status,
            reason=response.reason,
            media_type=response.headers.get_content_type(),
            location=response.headers.get("Location", ""),
            body=body,
        )


async def _open_bar(path: Path) -> "tqdm[Any]":
    found = await aiofiles.os.stat(path)
    return tqdm(
        desc=_make_printable(path.name),
        total=found.st_size if stat.S_ISREG(found.st_mode) else None,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=sys.stderr,
        # None: off where standard error is no terminal; and off where it is closed.
        disable=sys.stderr is None or None,
    )


def format_disposition(name: str) -> str:
    """Write a Content-Disposition with both forms of the name (RFC 6266 §4.3, appendix D)."""
    # Python keeps bytes of a name that are not UTF-8 as lone surrogates, which no header can hold.
    name = re.sub("[\ud800-\udfff]", "\ufffd", name)
    plain = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"


# ── report: the id, or why there is none ──


def read_id(answer: Answer, *, is_complete: bool) -> str:
    """Return the id in the answer to a body sent completely; UploadFailed if there is none."""
    if answer.status != 201:
        raise UploadFailed(_explain_refusal(answer))
    if not is_complete:
        raise UploadFailed("the server answered 201 before it had the whole file")
    text = answer.body.decode(errors="replace").strip()
    if _UUID.fullmatch(text) is None:
        raise UploadFailed(f"the server answered 201, but with no id: {text[:100]!r}")
    return text


def explain(error: BaseException) -> str:
    """Return what the operating system or a library calls the error, without its numbers."""
    if isinstance(error, (socket.gaierror, ssl.SSLError)):  # their numbers are not the system's
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _explain_break(error: Exception, url: str, body: Body) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"cannot connect to {url}: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {url}: {explain(error.os_error)}"
        case aiohttp.ConnectionTimeoutError():
            return f"cannot connect to {url} in {CONNECT_SECONDS:g} seconds"
        case aiohttp.InvalidURL():
            return f"{url} is no usable address"
        case aiohttp.SocketTimeoutError():
            message = f"no answer from {url} in {ANSWER_SECONDS:g} seconds after the upload"
        case aiohttp.ClientResponseError():
            message = f"what {url} answers is not HTTP: {error.message}"
        case _:
            message = f"the connection to {url} broke: {explain(error)}"
    return f"{message}; whether the file was stored is unknown" if body.is_complete else message


def _explain_refusal(answer: Answer) -> str:
    problem = _parse_problem(answer)
    title = problem.get("title") or answer.reason
    message = f"the server answered {answer.status} {title}".rstrip()
    if detail := problem.get("detail") or answer.location:
        message += f": {detail}"
    if problem.get("outcome") == "unknown" and "id" in problem:
        message += f" (the file may have been stored: ask for {problem['id']})"
    return message


def _parse_problem(answer: Answer) -> dict[str, str]:
    """Return the texts of an RFC 9457 problem, none where the answer is no JSON object."""
    if not answer.media_type.endswith("json"):
        return {}
    try:
        problem = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    members = problem.items() if isinstance(problem, dict) else ()
    return {name: text for name, text in members if isinstance(text, str)}


def write_id(file_id: str) -> None:
    """Write the id to standard output, UploadFailed where that takes nothing."""
    try:
        # Past the buffer of sys.stdout, which would try again, and fail loudly, at exit.
        os.write(1, os.fsencode(f"{file_id}\n"))  # with a name, whose bytes may be any
    except OSError as error:
        message = f"stored as {file_id}, but cannot write to standard output: {explain(error)}"
        raise UploadFailed(message) from error


def complain(message: str) -> None:
    """Write one line to standard error, whatever the message holds."""
    sys.stderr.write(f"{PROGRAM}: error: {_make_printable(message)}\n")


def _make_printable(text: str) -> str:
    """Return the text on one line and harmless to a terminal: a server or a name may be neither."""
    line = " ".join(text.split())[:LONGEST_MESSAGE]
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


async def run(flags: argparse.Namespace) -> int:
    """Upload what the flags say, and print ids; return the exit status."""

    async def send_at_once(path: Path) -> str:
        return await upload(Order(path=path, url=flags.url, chunk_size=flags.chunk_size))

    if flags.is_lone and not flags.resume:
        write_id(await send_at_once(flags.paths[0]))
        return 0
    # Imported here: for one file in one request the script is this one file.
    from resuming import Script, send_all  # noqa: PLC0415

    return await send_all(flags, Script(send_at_once, UploadFailed, explain, write_id, complain))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    flags = parse_flags(arguments)
    try:
        return asyncio.run(run(flags))
    except UploadFailed as failure:
        complain(str(failure))
        return 1
    except KeyboardInterrupt:
        again = "; the same command goes on where it stopped" if flags.resume else ""
        complain(f"interrupted{again}")
        return 130


if __name__ == "__main__":
    sys.exit(main())
