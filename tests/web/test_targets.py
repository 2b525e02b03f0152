"""Request targets in every form: what is meant is the path, whatever host goes before it."""

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
    await wire.send(GET)
    assert (await wire.receive()).status == 200


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
