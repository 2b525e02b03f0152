"""Requests hidden in others: nginx and the service agree where each one ends, or it is refused."""

import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import eventually
from tests.e2e.nginx import VARIANTS, Site, running_site

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /files/ HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = b"5\r\nhello\r\n0\r\n\r\n"


def chunked(size: bytes = b"5", end: bytes = b"\r\n0\r\n\r\n") -> bytes:
    return POST + CHUNKED + b"\r\n" + size + b"\r\nhello" + end


def coded(*fields: bytes) -> bytes:
    return POST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + BODY


def hiding(line: bytes, fields: bytes = b"", *, version: bytes = b"1.1") -> bytes:
    """Make a request whose body, of a clear length, looks like another request."""
    head = b"%b HTTP/%b\r\nHost: x\r\n%b" % (line, version, fields)
    return head + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN


# Framing that two parsers may read in two ways: nobody may take HIDDEN for the next request.
DOUBTFUL = {
    "a length, and chunks": coded(b"Content-Length: 5", CHUNKED.strip()),
    "chunks, and a length": coded(CHUNKED.strip(), b"Content-Length: 52"),
    "chunks twice": coded(CHUNKED.strip(), CHUNKED.strip()),
    "chunks, then none": coded(CHUNKED.strip(), b"Transfer-Encoding: identity"),
    "chunks in a list": coded(b"Transfer-Encoding: chunked, identity"),
    "a coding before chunks": coded(b"Transfer-Encoding: gzip, chunked"),
    "an unknown coding": coded(b"Transfer-Encoding: xchunked"),
    "no coding": coded(b"Transfer-Encoding: identity"),
    "an empty coding, and a length": coded(b"Transfer-Encoding:", b"Content-Length: 5"),
    "a quoted coding": coded(b'Transfer-Encoding: "chunked"'),
    "a blank before the colon": coded(b"Transfer-Encoding : chunked", b"Content-Length: 5"),
    "a blank before the name": coded(b" Transfer-Encoding: chunked", b"Content-Length: 5"),
    "a vertical tab": coded(b"Transfer-Encoding:\x0bchunked", b"Content-Length: 5"),
    "a null": coded(b"Transfer-Encoding: \x00chunked", b"Content-Length: 5"),
    "a folded line": coded(b"X: y\r\n Transfer-Encoding: chunked", b"Content-Length: 5"),
    "a folded value": coded(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 5"),
    "a bare line feed": coded(b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 5"),
    "a bare carriage return": coded(b"X: y\rTransfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": coded(b"Content-Length: 15", b"Content-Length: 5"),
    "one length twice": coded(b"Content-Length: 15", b"Content-Length: 15"),
    "lengths in a list": coded(b"Content-Length: 15, 15"),
    "a signed length": coded(b"Content-Length: +15"),
    "a negative length": coded(b"Content-Length: -15"),
    "a length in hexadecimal": coded(b"Content-Length: 0xf"),
    "a length beyond 64 bits": coded(b"Content-Length: 18446744073709551631"),
    "a size in hexadecimal": chunked(b"0x5"),
    "a size with a sign": chunked(b"+5"),
    "a size beyond 64 bits": chunked(b"10000000000000005"),
    "a size that ends in a line feed": POST + CHUNKED + b"\r\n5\nhello\r\n0\r\n\r\n",
    "an extension that ends in a line feed": POST + CHUNKED + b"\r\n5;a\nhello\r\n0\r\n\r\n",
    "a chunk longer than its size": chunked(end=b"XX\r\n0\r\n\r\n"),
    "a chunk that ends in a line feed": chunked(end=b"\n0\r\n\r\n"),
    "a request in an extension": chunked(b"5;GET /hidden HTTP/1.1"),
    "a length in a trailer": chunked(end=b"\r\n0\r\nContent-Length: 99\r\nX: y\r\n\r\n"),
    "chunks in HTTP/1.0": (
        coded(CHUNKED.strip(), b"Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    ),
}

# Of these the end is known; what looks like a request is content.
CLEAR = {
    "in a length": hiding(b"POST /files/"),
    "in a chunk": POST + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
    "in the body of a GET": hiding(b"GET /healthz"),
    "in the body of a HEAD": hiding(b"HEAD /healthz"),
    "in the body of a DELETE": hiding(b"DELETE /files/x"),
    "in a body that nobody wants": hiding(b"POST /nothing"),
    "behind an upgrade": hiding(b"POST /files/", b"Connection: Upgrade\r\nUpgrade: x\r\n"),
    "behind an expectation": hiding(b"POST /files/", b"Expect: 100-continue\r\n"),
    "behind another expectation": hiding(b"POST /files/", b"Expect: more\r\n"),
    "under a misspelt coding": hiding(b"POST /files/", b"Transfer_Encoding: chunked\r\n"),
    "in a target": HIDDEN.replace(b"/hidden", b"/x%20HTTP/1.1%0d%0a%0d%0aGET%20/hidden"),
    "in HTTP/1.0": hiding(b"POST /files/", b"Connection: keep-alive\r\n", version=b"1.0"),
}


@pytest.fixture(scope="module", params=["unbuffered", "buffered"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One nginx and one service for all tests of a variant."""
    with running_site(VARIANTS[request.param], tmp_path_factory.mktemp("site")) as site:
        yield site


def exchange(sock: socket.socket, request: bytes) -> list[int]:
    """Send a request and nothing more; return the statuses of all final answers."""
    answer = bytearray()
    with sock, suppress(ConnectionError):
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65536):
            answer += piece
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([2-5]\d\d)", answer)]


def requests_of(site: Site) -> Counter[str]:
    """How often the service was asked under each request id; probes are not logged."""
    lines = [line for line in site.service.lines if line.get("message") == "request"]
    assert [line["path"] for line in lines if line["path"] == "/hidden"] == []
    return Counter(str(line["request_id"]) for line in lines)


def check_agreement(site: Site) -> None:
    """The service was asked nothing that nginx did not ask it, and nothing twice."""
    marker = site.curl(f"{site.root}/nothing").headers["x-request-id"]
    eventually(lambda: marker in requests_of(site) and site.is_logged(marker), "logs are written")
    known = {line.split(" ")[0] for line in site.read_log()}
    asked = requests_of(site)
    assert set(asked) <= known
    assert set(asked.values()) == {1}
    traced = [line for line in site.service.lines if "traceback" in line]
    assert traced == []


def direct(site: Site) -> socket.socket:
    address = urlsplit(site.service.url)
    return socket.create_connection((address.hostname, address.port or 0), 20)


@pytest.mark.parametrize("case", [*DOUBTFUL, *CLEAR])
def test_nginx_and_the_service_agree_where_a_request_ends(site: Site, case: str) -> None:
    request = (DOUBTFUL | CLEAR)[case]
    # In what is doubtful, HIDDEN follows: if nginx saw a request there, its own log would have it.
    hidden = HIDDEN.replace(b"/hidden", b"/nothing") if case in DOUBTFUL else b""
    victim = site.curl("--data-binary", "@-", site.files, content=b"victim").body.decode()
    exchange(site.call(), request + hidden)
    for _ in range(3):  # on the connections that nginx keeps to the service
        assert site.curl(f"{site.files}{victim}/").body == b"victim"
    check_agreement(site)


@pytest.mark.parametrize("case", DOUBTFUL)
def test_the_service_alone_refuses_doubtful_framing_and_closes(site: Site, case: str) -> None:
    before = site.stored()
    assert exchange(direct(site), DOUBTFUL[case] + HIDDEN) in ([400], [501])
    eventually(lambda: site.stored() == before, "nothing of it is kept")
    requests_of(site)


@pytest.mark.parametrize("case", CLEAR)
def test_the_service_alone_takes_content_for_content(site: Site, case: str) -> None:
    following = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    first, *rest = exchange(direct(site), CLEAR[case] + following)
    assert first in {200, 201, 404, 417}
    assert rest in ([], [200])  # it may close instead
    requests_of(site)
