"""What the tests with real clients share: a large file, plain HTTP, browsers' and curl's paths."""

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, async_playwright

from tests.e2e.upload_page import UploadPage
from tests.processes import ServiceProcess

# FILE_SERVICE_TEST_BYTES=1073741824 sends a gigabyte every way.
PAYLOAD_SIZE = int(os.environ.get("FILE_SERVICE_TEST_BYTES", "20971527"))
DEADLINE_SECONDS = 20

CLIENTS = Path(__file__).parents[1] / "clients"

# What the database has no part in runs on one of them.
sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass(frozen=True)
class Payload:
    """A file on disk and what its bytes hash to."""

    path: Path
    size: int
    sha256: str


MakePayload = Callable[..., Payload]


@pytest.fixture
def make_payload(tmp_path: Path) -> MakePayload:
    """Write a file of random bytes under a name of the test's choice."""

    def make(name: str, size: int = PAYLOAD_SIZE) -> Payload:
        folder = tmp_path / "sent"
        folder.mkdir(exist_ok=True)
        content = os.urandom(size)
        path = folder / name
        path.write_bytes(content)
        return Payload(path, size, hashlib.sha256(content).hexdigest())

    return make


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def connected(service: ServiceProcess) -> Iterator[http.client.HTTPConnection]:
    """One connection to the service, kept open until the block ends."""
    address = urlsplit(service.url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(
        address.hostname, address.port, timeout=DEADLINE_SECONDS
    )
    connection.connect()
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> Answer:
    """Send one request and read its whole answer; the connection stays open."""
    connection.request(method, path, body)
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def ask_once(service: ServiceProcess, method: str, path: str, body: bytes | None = None) -> Answer:
    """Send one request over a connection of its own."""
    with connected(service) as connection:
        return ask(connection, method, path, body)


def info_of(service: ServiceProcess, file_id: str) -> dict[str, Any]:
    answer = ask_once(service, "GET", f"/files/{file_id}/info")
    assert answer.status == 200, answer.text
    info: dict[str, Any] = answer.json()
    return info


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_program(name: str) -> str:
    """The path of a program of the system: without it a test is skipped, but fails in CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI must run this test")
        pytest.skip(reason)
    return path


def find_node_client(name: str) -> tuple[str, Path]:
    """Node, and a script of tests/clients, whose packages `make test` installs beside it."""
    node = find_program("node")
    script = CLIENTS / name
    if not (CLIENTS / "node_modules").is_dir():
        reason = "the packages of tests/clients are not installed: npm ci --ignore-scripts"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI must run this test")
        pytest.skip(reason)
    return node, script


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds; fail, naming `what` was waited for, after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def descriptors_of(pid: int) -> list[str]:
    """What a process holds open, as the kernel names it: paths, `socket:[inode]`."""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            names.append(str(entry.readlink()))
    return names


Curl = Callable[..., str]


@pytest.fixture
def curl(tmp_path: Path) -> Curl:
    """Run curl in a folder of its own and return what it printed."""
    program = find_program("curl")
    folder = tmp_path / "curl"
    folder.mkdir()

    def run(*arguments: str, content: bytes | None = None) -> str:
        quiet = ("--disable", "--noproxy", "*", "--silent", "--show-error", "--fail-with-body")
        done = subprocess.run(
            [program, *quiet, *arguments],
            input=content,
            stdin=subprocess.DEVNULL if content is None else None,
            check=False,
            capture_output=True,
            cwd=folder,
            timeout=300,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout.decode()

    return run


FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A real browser."""
    program = find_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> Page:
    """An empty page of a real browser."""
    return await browser.new_page()


ShowPage = Callable[[str], Awaitable[str]]


@pytest.fixture
def show_page(aiohttp_server: Callable[[web.Application], Awaitable[TestServer]]) -> ShowPage:
    """Serve HTML from a site that is not the service, and return its address."""

    async def show(body: str) -> str:
        async def get(_request: web.Request) -> web.Response:
            text = f"<!doctype html><meta charset=utf-8><title>elsewhere</title>{body}"
            return web.Response(text=text, content_type="text/html")

        app = web.Application()
        app.router.add_get("/", get)
        return str((await aiohttp_server(app)).make_url("/"))

    return show


@pytest.fixture
async def there(browser: Browser) -> AsyncIterator[UploadPage]:
    """The page; at the end the console must be empty: no error, no violation of the policy."""
    there = UploadPage(await (await browser.new_context()).new_page())
    yield there
    assert there.said == []


@pytest.fixture
async def clean(there: UploadPage) -> AsyncIterator[UploadPage]:
    """The same where no request may fail, either."""
    yield there
    assert there.network == []


def check_link(service: ServiceProcess, link: str, payload: Payload) -> None:
    """See that a link leads to the very bytes and the name that were sent."""
    answer = ask_once(service, "GET", urlsplit(link).path)
    assert answer.status == 200
    assert answer.sha256 == payload.sha256
    info = info_of(service, urlsplit(link).path.split("/")[2])
    assert (info["name"], info["size"]) == (payload.path.name, payload.size)
