"""Request targets in every form: what is meant is the path, whatever host goes before it."""

import logging
from collections.abc import AsyncIterator

import pytest

from tests.conftest import Client
from tests.wire import Wire

# Nothing here depends on which database it is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def wire(client: Client) -> AsyncIterator[Wire]:
    wire = await Wire.to(client)
    yield wire
    await wire.close()


async def ask(wire: Wire, line: bytes) -> int:
    """Send a request line; return the status of its answer."""
    await wire.send(line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    return (await wire.receive()).status


@pytest.mark.parametrize(
    "scheme_and_host",
    [
        "http://x",
        "https://elsewhere.example:8443",
        "HTTP://user:password@x",
        "ftp://x",
        "http://[::1]:80",
        "http://xn--",  # no host by IDNA: what cannot be decoded
        "http://xn--a",
        "http://%zz",
    ],
)
async def test_of_an_absolute_target_the_path_is_asked_for(
    wire: Wire, scheme_and_host: str
) -> None:
    assert await ask(wire, f"GET {scheme_and_host}/healthz".encode()) == 200
    assert await ask(wire, f"GET {scheme_and_host}/nothing".encode()) == 404
    await wire.send(GET)
    assert (await wire.receive()).status == 200


@pytest.mark.parametrize("authority", ["x:80", "xn--:80", "x"])
async def test_nobody_is_connected_through_the_service(wire: Wire, authority: str) -> None:
    assert await ask(wire, f"CONNECT {authority}".encode()) == 404
    # What follows was meant for somebody else.
    assert await wire.is_closed()


@pytest.mark.parametrize(
    "target", ["http:///healthz", "http://x:99999/", "http://[::1/", "healthz", "?x"]
)
async def test_a_target_that_is_none_is_malformed_and_closes_the_connection(
    wire: Wire, target: str
) -> None:
    await wire.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await wire.receive()
    assert (answer.status, answer.problem["type"]) == (400, "/problems/malformed")
    assert await wire.is_closed()


@pytest.mark.parametrize(
    "target", ["//evil/healthz", "/files/../healthz", "/./healthz", "/files/..%2f..%2fetc", "/%zz"]
)
async def test_a_path_is_taken_as_it_is_written(wire: Wire, target: str) -> None:
    assert await ask(wire, f"GET {target}".encode()) == 404


HOSTS = ["", "x", "x:", "x:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "a_b.example", "xn--"]
NO_HOSTS = ["a b", "a/b", "a@b", "a?b", "a#b", "[::1", "x:abc", "a,b c", "<script>", "ö"]


@pytest.mark.parametrize("host", [*HOSTS, *NO_HOSTS])
async def test_a_host_is_a_host_or_the_request_is_malformed(wire: Wire, host: str) -> None:
    await wire.send(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = await wire.receive()
    assert answer.status == (400 if host in NO_HOSTS else 200)
    if answer.status == 400:
        assert answer.problem["type"] == "/problems/malformed"


@pytest.mark.parametrize("hosts", [b"", b"Host: x\r\nHost: y\r\n"], ids=["none", "two"])
async def test_no_host_and_two_hosts_are_malformed(wire: Wire, hosts: bytes) -> None:
    await wire.send(b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
    assert (await wire.receive()).status == 400
    assert await wire.is_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/2.0\r\nHost: x\r\n",
        b"GET /healthz\r\n",
        b"POST /files/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"POST /files/ HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
    ],
    ids=["HTTP 2.0", "HTTP 0.9", "a coding", "a coding in HTTP 1.0"],
)
async def test_what_the_service_does_not_speak_is_no_trouble_of_its_own(
    wire: Wire, caplog: pytest.LogCaptureFixture, head: bytes
) -> None:
    caplog.set_level(logging.INFO)
    await wire.send(head + b"\r\n0\r\n\r\n" if b"chunked" in head else head + b"\r\n")
    assert (await wire.receive()).status in {501, 505}
    assert await wire.is_closed()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
