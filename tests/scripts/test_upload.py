"""scripts/upload.py as its users run it: a process, against the service and against bad peers."""

import asyncio
import errno
import hashlib
import importlib.util
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ByteSize, TypeAdapter

from tests.conftest import MakeService
from tests.processes import ServiceProcess, service_environment

SCRIPT = Path(__file__).parents[2] / "scripts" / "upload.py"
SECONDS = 30
ID = "ff6b51b5-4030-48ed-aa5a-1b8aba37d1c4"
CREATED = f"HTTP/1.1 201 Created\r\nContent-Length: {len(ID)}\r\n\r\n{ID}".encode()

Completed = subprocess.CompletedProcess[str]
Play = Callable[[socket.socket], None]


def command(*flags: str) -> list[str]:
    # A shell has what it runs in the background ignore interrupts; ours may have been such a one.
    heeding_interrupts = ["env", "--default-signal=INT"]
    # -W error: what the script leaves unclosed would show on standard error.
    return [*heeding_interrupts, sys.executable, "-W", "error", str(SCRIPT), *flags]


def run(*flags: str, **variables: str) -> Completed:
    """Run the script to its end; no outcome may come with a traceback."""
    result = subprocess.run(
        command(*flags),
        capture_output=True,
        text=True,
        env=service_environment(**variables),
        timeout=SECONDS,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result


def complaint(result: Completed) -> str:
    """Return the one line of a failed run."""
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"upload\.py: error: [^\n]+\n", result.stderr), result.stderr
    return result.stderr


def to(service: ServiceProcess) -> tuple[str, str]:
    return "--port", str(urlsplit(service.url).port)


def fetch(service: ServiceProcess, file_id: str, rest: str = "") -> bytes:
    with urllib.request.urlopen(f"{service.url}/files/{file_id}/{rest}", timeout=SECONDS) as answer:
        return bytes(answer.read())


@contextmanager
def peer(play: Play, host: str = "127.0.0.1") -> Iterator[str]:
    """Accept one connection, `play` the server's part on it and close it; yields the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        server.settimeout(SECONDS)

        def accept() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(SECONDS)
                play(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield str(server.getsockname()[1])
        thread.join(SECONDS)
        assert not thread.is_alive()


@dataclass
class Request:
    """One request as it came over the wire, answered with 201."""

    line: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    answer: bytes = CREATED

    def __call__(self, connection: socket.socket) -> None:
        self.read(connection)
        connection.sendall(self.answer)

    def read(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as wire:
            self.line = wire.readline().decode().strip()
            while line := wire.readline().decode().strip():
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
            assert self.headers["transfer-encoding"] == "chunked"
            while size := int(wire.readline(), 16):
                self.chunks.append(wire.read(size))
                assert wire.read(2) == b"\r\n"
            assert wire.read(2) == b"\r\n"


def reset(connection: socket.socket) -> None:
    """Close at once with RST, as a server that was killed does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _drain(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return f"{head}\r\n\r\n".encode() + body


PROBLEM = answer(
    "413 Content Too Large",
    json.dumps({"title": "Too much", "status": 413, "detail": "At most 3 bytes."}).encode(),
    "Content-Type: application/problem+json",
    "Connection: close",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "report.txt"
    path.write_bytes(b"0123456789")
    return path


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module, where a clock or an order of events must be forced."""
    spec = importlib.util.spec_from_file_location("upload_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# ── against the service ──


def test_the_bytes_come_back_as_they_were_sent_and_the_id_is_alone_on_standard_output(
    service: ServiceProcess, tmp_path: Path
) -> None:
    content = os.urandom(3_000_017)
    path = tmp_path / "photo.png"
    path.write_bytes(content)

    result = run("--path", str(path), "--chunk_size", "100000", *to(service))

    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", result.stdout)
    back = fetch(service, result.stdout.strip())
    assert hashlib.sha256(back).digest() == hashlib.sha256(content).digest()
    info = json.loads(fetch(service, result.stdout.strip(), "info"))
    assert (info["size"], info["media_type"]) == (len(content), "image/png")


def test_names_of_every_kind_come_back_unchanged(service: ServiceProcess, tmp_path: Path) -> None:
    names = [
        "отчёт за ноябрь.pdf",
        "보고서.docx",
        'the "final" one.txt',
        "a;b=c, d'e.txt",
        "100%25.txt",
        "👩‍👩‍👧 family 🎉.jpg",
        "!#$&+-.^_`|~(){}[]@:<>?*",
        "-leading dash",
        "ж" * 120 + ".txt",
    ]
    runs = []
    for name in names:
        (tmp_path / name).write_text(name)
        flags = command("--path", str(tmp_path / name), *to(service))
        runs.append(subprocess.Popen(flags, stdout=subprocess.PIPE, env=service_environment()))

    for name, process in zip(names, runs, strict=True):
        stdout, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        info = json.loads(fetch(service, stdout.decode().strip(), "info"))
        assert info["name"] == name
        assert fetch(service, info["id"]).decode() == name


def test_an_empty_file_is_a_file(service: ServiceProcess, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    result = run("--path", str(path), *to(service))
    assert result.returncode == 0
    assert fetch(service, result.stdout.strip()) == b""


def test_a_file_beyond_the_limit_shows_the_problem_and_exit_1(
    make_service: MakeService, tmp_path: Path
) -> None:
    limited = make_service("--max-size", "1000")
    path = tmp_path / "big"
    for size in (1001, 50_000_000):
        path.touch()
        os.truncate(path, size)
        line = complaint(run("--path", str(path), *to(limited)))
        assert "413 The upload is too large: " in line
        assert "1000" in line


# ── what goes over the wire ──


def test_the_body_is_chunked_and_every_chunk_has_the_size_asked_for(tmp_path: Path) -> None:
    content = os.urandom(250_000)
    path = tmp_path / "x"
    path.write_bytes(content)
    request = Request()
    with peer(request) as port:
        result = run("--port", port, "--chunk_size", "100000", "--path", str(path))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{ID}\n", "")
    assert [len(chunk) for chunk in request.chunks] == [100_000, 100_000, 50_000]
    assert b"".join(request.chunks) == content
    assert "content-length" not in request.headers
    assert request.line == "POST /files/ HTTP/1.1"
    assert request.headers["content-type"] == "application/octet-stream"


def test_the_default_chunk_has_64_kib(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(65_537))
    request = Request()
    with peer(request) as port:
        assert run("--port", port, "--path", str(path)).returncode == 0
    assert [len(chunk) for chunk in request.chunks] == [65_536, 1]


@pytest.mark.parametrize(
    ("url", "target"), [("/files/", "/files/"), ("up?tag=a%20b", "/up?tag=a%20b"), ("", "/")]
)
def test_the_url_works_with_and_without_a_leading_slash(url: str, target: str, file: Path) -> None:
    request = Request()
    with peer(request) as port:
        assert run("--port", port, "--url", url, "--path", str(file)).returncode == 0
    assert request.line == f"POST {target} HTTP/1.1"


@pytest.mark.parametrize(
    ("name", "plain", "extended"),
    [
        ("report.pdf", "report.pdf", "report.pdf"),
        ('50% "й" \\ ;', "50_ ___ _ ;", "50%25%20%22%D0%B9%22%20%5C%20%3B"),
        ("a\nb\x7f", "a_b_", "a%0Ab%7F"),
        ("!#$&+-.^_`|~'()*", "!#$&+-.^_`|~'()*", "!#$&+-.^_`|~%27%28%29%2A"),
        (os.fsdecode(b"caf\xe9.txt"), "caf_.txt", "caf%EF%BF%BD.txt"),
    ],
)
def test_a_name_is_written_by_rfc_8187_with_a_plain_fallback(
    script: ModuleType, name: str, plain: str, extended: str
) -> None:
    assert script.format_disposition(name) == (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{extended}"
    )


def test_a_name_that_is_not_utf_8_is_sent_with_replacement_characters(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    try:
        Path(os.fsdecode(path)).write_bytes(b"x")
    except OSError as error:
        if error.errno != errno.EILSEQ:
            raise
        pytest.skip("this file system takes UTF-8 only")
    request = Request()
    with peer(request) as port:
        result = run("--port", port, "--path", os.fsdecode(path))
    assert (result.returncode, result.stderr) == (0, "")
    assert "UTF-8''caf%EF%BF%BD.txt" in request.headers["content-disposition"]


def test_a_pipe_is_uploaded_to_its_end() -> None:
    request = Request()
    with peer(request) as port:
        result = subprocess.run(
            command("--port", port, "--path", "/dev/stdin"),
            input=b"x" * 200_000,
            capture_output=True,
            env=service_environment(),
            timeout=SECONDS,
            check=False,
        )
    assert (result.returncode, result.stdout.decode(), result.stderr) == (0, f"{ID}\n", b"")
    assert b"".join(request.chunks) == b"x" * 200_000


def test_the_variables_of_the_service_are_the_defaults(file: Path) -> None:
    request = Request()
    with peer(request) as port:
        result = run(
            "--path",
            str(file),
            FILE_SERVICE_HOST="localhost",
            FILE_SERVICE_PORT=port,
            FILE_SERVICE_CHUNK="0.004KB",
        )
    assert result.returncode == 0, result.stderr
    assert request.headers["host"] == f"localhost:{port}"
    assert [len(chunk) for chunk in request.chunks] == [4, 4, 2]


def test_a_flag_outweighs_its_variable_whatever_that_holds(file: Path) -> None:
    request = Request()
    with peer(request) as port:
        result = run(
            *("--host", "127.0.0.1", "--port", port, "--chunk_size", "8", "--path", str(file)),
            FILE_SERVICE_HOST="no such host",
            FILE_SERVICE_PORT="nonsense",
            FILE_SERVICE_CHUNK="lots",
        )
    assert result.returncode == 0, result.stderr
    assert [len(chunk) for chunk in request.chunks] == [8, 2]


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1"), ("[::1]", "::1")]
)
def test_where_a_server_binds_to_every_address_the_loopback_is_called(
    host: str, reached: str, file: Path
) -> None:
    if ":" in reached and not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with peer(Request(), reached) as port:
        result = run("--path", str(file), FILE_SERVICE_HOST=host, FILE_SERVICE_PORT=port)
    assert result.returncode == 0, result.stderr


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


# ── wrong usage ──


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--chunk_size", "0"], "1 byte"),
        (["--chunk_size", "-1"], "chunk_size"),
        (["--chunk_size", "lots"], "'lots' is no size"),
        (["--chunk_size", ""], "'' is no size"),
        (["--chunk_size", "5 apples"], "no size"),
        (["--chunk_size", "1bit"], "1 byte"),
        (["--chunk_size", "2GiB"], "1 byte"),
        (["--chunk_size", "9" * 400], "1 byte"),
        (["--port", "0"], "no port"),
        (["--port", "65536"], "no port"),
        (["--port", "http"], "no port"),
        (["--port", "²"], "no port"),
        (["--protocol", "ftp"], "invalid choice"),
        (["--host", ""], "no host"),
        (["--host", "http://127.0.0.1"], "no host"),
        (["--host", "127.0.0.1:8080"], "no host"),
        (["--host", "user@host"], "no host"),
        (["--unknown"], "--unknown"),
        (["--chunk", "5"], "--chunk"),
    ],
)
def test_wrong_usage_is_exit_2(
    script: ModuleType, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        script.main(["--path", "x", *flags])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in err


def test_without_a_path_it_is_wrong_usage() -> None:
    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert "--path" in result.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "nonsense"), ("CHUNK", "-5"), ("HOST", "http://x")]
)
def test_a_variable_that_is_unusable_is_wrong_usage(name: str, value: str, file: Path) -> None:
    result = run("--path", str(file), **{f"FILE_SERVICE_{name}": value})
    assert (result.returncode, result.stdout) == (2, "")
    assert value in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "65536",
        "1_000",
        " 7 ",
        "256 kib",
        "1MiB",
        "1GB",
        "2k",
        "4b",
        "1.5",
        ".5kb",
        "80bit",
        "8Mibit",
    ],
)
def test_a_size_means_what_the_service_takes_it_for(script: ModuleType, text: str) -> None:
    assert script.parse_size(text) == TypeAdapter(ByteSize).validate_python(text)


# ── failures: one line, exit 1 ──


def test_a_missing_file_is_one_clear_line_and_exit_1() -> None:
    line = complaint(run("--path", "no/such file"))
    assert "cannot read no/such file: No such file or directory" in line


def test_a_folder_is_one_clear_line_and_exit_1(tmp_path: Path) -> None:
    assert "Is a directory" in complaint(run("--path", str(tmp_path)))


def test_an_unreadable_file_is_one_clear_line_and_exit_1(file: Path) -> None:
    file.chmod(0)
    if os.access(file, os.R_OK):
        # Root opens everything; what it cannot read shows only once the upload has begun.
        with peer(_drain) as port:
            line = complaint(run("--port", port, "--path", "/proc/self/mem"))
        assert "cannot read /proc/self/mem: Input/output error" in line
    else:
        assert "Permission denied" in complaint(run("--path", str(file)))


def test_a_name_that_would_break_the_line_does_not() -> None:
    assert "\x1b" not in complaint(run("--path", "a\nb\x1b[2J\udcff"))


def test_a_server_that_is_away_is_one_clear_line_and_exit_1(file: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = str(unused.getsockname()[1])
        line = complaint(run("--port", port, "--path", str(file)))
    assert f"cannot connect to http://127.0.0.1:{port}/files/: Connection refused" in line


def test_a_host_without_an_address_is_one_clear_line_and_exit_1(file: Path) -> None:
    line = complaint(run("--host", "no-such-host.invalid", "--path", str(file)))
    assert "cannot connect to http://no-such-host.invalid:8080/files/: " in line


def test_https_to_a_server_without_tls_is_one_clear_line_and_exit_1(file: Path) -> None:
    def play(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(PROBLEM)

    with peer(play) as port:
        line = complaint(run("--protocol", "https", "--port", port, "--path", str(file)))
    assert f"cannot connect to https://127.0.0.1:{port}/files/: " in line


def test_a_reset_in_the_middle_is_one_clear_line_and_exit_1(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.touch()
    os.truncate(path, 50_000_000)

    def play(connection: socket.socket) -> None:
        connection.recv(100_000)
        reset(connection)

    with peer(play) as port:
        line = complaint(run("--port", port, "--path", str(path)))
    assert f"the connection to http://127.0.0.1:{port}/files/ broke: " in line
    assert "unknown" not in line


def test_a_close_instead_of_an_answer_says_that_the_outcome_is_unknown(file: Path) -> None:
    with peer(Request(answer=b"")) as port:
        line = complaint(run("--port", port, "--path", str(file)))
    assert "broke: Server disconnected; whether the file was stored is unknown" in line


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not HTTP"),
        (answer("201 Created", b"<html>hello</html>"), "201, but with no id: '<html>hello</html>'"),
        (answer("201 Created", b"\xff\x00" * 90_000), "201, but with no id: "),
        (answer("201 Created"), "201, but with no id: ''"),
        (answer("200 OK", ID.encode()), "answered 200 OK\n"),
        (answer("502 Bad Gateway", b"<h1>nginx</h1>"), "answered 502 Bad Gateway\n"),
        (answer("503 Busy", b"{", "Content-Type: application/problem+json"), "answered 503 Busy\n"),
        (answer("500 Odd", b'["a"]', "Content-Type: application/json"), "answered 500 Odd\n"),
        (answer("500 Deep", b"[" * 60_000, "Content-Type: application/json"), "500 Deep\n"),
        (
            answer("500 Odd", b'{"title": 5, "detail": ["x"]}', "Content-Type: application/json"),
            "answered 500 Odd\n",
        ),
        (
            answer("308 Permanent Redirect", b"", "Location: https://elsewhere/files/"),
            "answered 308 Permanent Redirect: https://elsewhere/files/\n",
        ),
        (
            b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 99\r\n\r\n{",
            "answered 507 Insufficient Storage\n",
        ),
        (PROBLEM, "answered 413 Too much: At most 3 bytes.\n"),
    ],
    ids=lambda value: value.strip()[:40] if isinstance(value, str) else "",
)
def test_an_answer_that_is_no_id_is_one_clear_line_and_exit_1(
    sent: bytes, shown: str, file: Path
) -> None:
    with peer(Request(answer=sent)) as port:
        assert shown in complaint(run("--port", port, "--path", str(file)))


def test_an_unknown_outcome_tells_which_id_to_ask_for(file: Path) -> None:
    problem = {"title": "Not known yet", "detail": "Wait.", "outcome": "unknown", "id": ID}
    sent = answer(
        "503 Service Unavailable",
        json.dumps(problem).encode(),
        "Content-Type: application/problem+json",
    )
    with peer(Request(answer=sent)) as port:
        line = complaint(run("--port", port, "--path", str(file)))
    assert f"503 Not known yet: Wait. (the file may have been stored: ask for {ID})" in line


def test_a_problem_cannot_write_control_characters_to_the_terminal(file: Path) -> None:
    problem = {"title": "two\nlines", "detail": "\x1b[2J\u202e" + "x" * 5000}
    sent = answer(
        "400 Bad Request", json.dumps(problem).encode(), "Content-Type: application/problem+json"
    )
    with peer(Request(answer=sent)) as port:
        line = complaint(run("--port", port, "--path", str(file)))
    assert "400 two lines: \ufffd[2J\ufffdxxx" in line
    assert len(line) < 1100


def test_an_answer_of_created_before_the_whole_file_was_sent_is_not_believed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "big"
    path.touch()
    os.truncate(path, 50_000_000)

    def play(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(CREATED)
        _drain(connection)

    with peer(play) as port:
        line = complaint(run("--port", port, "--path", str(path)))
    assert "answered 201 before it had the whole file" in line


def test_a_standard_output_that_takes_nothing_does_not_lose_the_id(file: Path) -> None:
    with peer(Request()) as port, Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command("--port", port, "--path", str(file)),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=service_environment(),
            timeout=SECONDS,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == (
        f"upload.py: error: stored as {ID}, but cannot write to standard output: "
        "No space left on device\n"
    )


def test_an_interrupt_is_one_line_and_exit_130(file: Path) -> None:
    arrived = threading.Event()

    def play(connection: socket.socket) -> None:
        Request().read(connection)
        arrived.set()
        assert connection.recv(1) == b""

    with peer(play) as port:
        process = subprocess.Popen(
            command("--port", port, "--path", str(file)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=service_environment(),
        )
        assert arrived.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=SECONDS) == (b"", b"upload.py: error: interrupted\n")
    assert process.returncode == 130


# ── times and orders of events that only a function call can force ──


async def _send(script: ModuleType, port: str, chunks: AsyncIterator[bytes]) -> tuple[Any, Any]:
    body = script.Body(chunks)
    return await script.send(body, f"http://127.0.0.1:{port}/files/", "x"), body


async def test_an_answer_is_shown_even_when_sending_broke_first(script: ModuleType) -> None:
    closed = threading.Event()

    def play(connection: socket.socket) -> None:
        connection.recv(1)  # the rest stays unread: the close becomes a reset
        connection.sendall(PROBLEM)
        connection.close()
        closed.set()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        closed.wait(SECONDS)  # the loop stands still: nothing reads what arrives meanwhile
        yield b"y"
        yield b"z"

    with peer(play) as port:
        sent, body = await _send(script, port, chunks())
    assert not body.is_complete
    with pytest.raises(script.UploadFailed, match="413 Too much: At most 3 bytes"):
        script.read_id(sent, is_complete=body.is_complete)


async def test_an_early_answer_of_a_server_that_closes_at_once_is_never_lost(
    script: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "big"
    path.touch()
    os.truncate(path, 20_000_000)

    def play(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(PROBLEM)

    for _ in range(50):
        with peer(play) as port:
            url = f"http://127.0.0.1:{port}/files/"
            with pytest.raises(script.UploadFailed, match="413 Too much: At most 3 bytes"):
                await script.upload(script.Order(path=path, url=url, chunk_size=65_536))


async def test_an_upload_may_take_longer_than_the_answer_may(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "ANSWER_SECONDS", 0.2)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x"
            await asyncio.sleep(0.2)  # time itself is what is tested

    request = Request()
    with peer(request) as port:
        sent, body = await _send(script, port, chunks())
    assert script.read_id(sent, is_complete=body.is_complete) == ID
    assert b"".join(request.chunks) == b"xxxx"


async def test_a_server_that_never_answers_is_given_up(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(script, "ANSWER_SECONDS", 0.2)

    def play(connection: socket.socket) -> None:
        Request().read(connection)
        assert connection.recv(1) == b""

    with peer(play) as port:
        order = script.Order(path=file, url=f"http://127.0.0.1:{port}/", chunk_size=4)
        with pytest.raises(script.UploadFailed, match=r"in 0\.2 seconds .* stored is unknown"):
            await script.upload(order)


async def test_a_server_that_does_not_accept_is_given_up(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(script, "CONNECT_SECONDS", 0.2)
    with _full_backlog() as port:
        order = script.Order(path=file, url=f"http://127.0.0.1:{port}/", chunk_size=4)
        with pytest.raises(script.UploadFailed, match=r"cannot connect to .* in 0\.2 seconds"):
            await script.upload(order)


@contextmanager
def _full_backlog() -> Iterator[int]:
    """A port whose queue of connections is full, so that the kernel takes no more."""
    waiting: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        try:
            for _ in range(3):
                sock = socket.socket()
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect_ex(server.getsockname())
            yield server.getsockname()[1]
        finally:
            for sock in waiting:
                sock.close()


async def test_a_file_that_breaks_while_it_is_read_is_told_from_a_connection_that_does(
    script: ModuleType,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    ended = threading.Event()

    def play(connection: socket.socket) -> None:
        received = b""
        while piece := connection.recv(65_536):
            received += piece
        assert not received.endswith(b"0\r\n\r\n")  # a body cut short must not look whole
        ended.set()

    with peer(play) as port, pytest.raises(OSError, match="Input/output error"):
        await _send(script, port, chunks())
    assert ended.is_set()


# ── the progress bar ──


def _run_on_terminal(*flags: str) -> tuple[int, bytes, bytes]:
    """Run the script with standard error on a pseudo-terminal; return status, output and error."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    process = subprocess.Popen(
        command(*flags), stdout=subprocess.PIPE, stderr=slave, env=service_environment()
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 65_536):
            shown += piece
    except OSError as error:
        if error.errno != errno.EIO:  # Linux: this is how the end of a terminal looks
            raise
    finally:
        os.close(master)
    stdout, _ = process.communicate(timeout=SECONDS)
    return process.returncode, stdout, shown


def test_a_terminal_shows_progress_and_standard_output_still_has_the_id_alone(file: Path) -> None:
    with peer(Request()) as port:
        status, stdout, shown = _run_on_terminal("--port", port, "--path", str(file))
    assert (status, stdout.decode()) == (0, f"{ID}\n")
    assert b"report.txt: 100%" in shown
    assert b"10.0/10.0" in shown


def test_on_a_terminal_a_failure_has_a_line_of_its_own(file: Path) -> None:
    with peer(Request(answer=PROBLEM)) as port:
        status, stdout, shown = _run_on_terminal("--port", port, "--path", str(file))
    assert (status, stdout) == (1, b"")
    assert shown.endswith(
        b"\nupload.py: error: the server answered 413 Too much: At most 3 bytes.\r\n"
    )


def test_without_a_terminal_nothing_is_shown(file: Path) -> None:
    with peer(Request()) as port:
        assert run("--port", port, "--path", str(file)).stderr == ""


def test_with_standard_error_closed_the_upload_still_works(file: Path) -> None:
    with peer(Request()) as port:
        result = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *command("--port", port, "--path", str(file))],
            stdout=subprocess.PIPE,
            env=service_environment(),
            timeout=SECONDS,
            check=False,
        )
    assert (result.returncode, result.stdout.decode()) == (0, f"{ID}\n")


def test_the_script_can_be_run_by_its_name() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_text().startswith("#!/usr/bin/env python3\n# /// script\n")
