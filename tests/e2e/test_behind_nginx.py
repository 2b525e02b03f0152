"""The service behind a real nginx, set up as docs/operations.md says, in every way it may be."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from playwright.async_api import Browser

from tests.e2e.conftest import Answer, MakePayload, ask_once, eventually, sha256_of
from tests.e2e.nginx import CLIENT, MAX_SIZE, VARIANTS, Site, running_site
from tests.e2e.upload_page import UploadPage

MIB = 1024 * 1024
TRUST = ("--trusted-proxies", "127.0.0.1")
CHUNKED = ("-H", "Transfer-Encoding: chunked")
JSON = ("-H", "Accept: application/json")
NAME = "100% of it's a+b; c=d? #1 & ü 보고.pdf"
CONTENT = bytes(range(256)) * 400


@pytest.fixture(scope="module", params=VARIANTS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One nginx and one service for all tests of a variant."""
    with running_site(VARIANTS[request.param], tmp_path_factory.mktemp("site"), *TRUST) as site:
        yield site


@pytest.fixture
def stored(site: Site) -> str:
    """Where the outside finds a file of CONTENT."""
    return upload(site, "--data-binary", "@-", content=CONTENT)


def upload(site: Site, *arguments: str, url: str = "", content: bytes | None = None) -> str:
    """Upload by curl; return the address that the answer tells."""
    answer = site.curl(*JSON, *arguments, url or site.files, content=content)
    assert answer.status == 201, answer
    told: dict[str, Any] = answer.json()
    assert told["url"] == answer.headers["location"] == f"{site.files}{told['id']}/"
    return str(told["url"])


def check_problem(site: Site, answer: Answer, status: int, code: str) -> None:
    """Hold a refusal against the contract: nginx let it pass as it was, under nginx's id."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"/problems/{code}", status)
    assert problem["request_id"] == answer.headers["x-request-id"]
    eventually(lambda: site.is_logged(problem["request_id"]), "nginx logs the same id")


# --- upwards ---

# By a header, where the address does not tell it.
NAMED = ("-H", f"Content-Disposition: attachment; filename*=UTF-8''{quote(NAME, safe='')}")
WAYS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "length": lambda path: ("--data-binary", f"@{path}", *NAMED),
    "chunks": lambda path: ("-X", "POST", *CHUNKED, "-T", path, *NAMED),
    "form": lambda path: ("-F", f'file=@"{path}"'),
    "put": lambda path: ("-T", path),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_large_file_goes_up_in_every_way_and_comes_down_the_same(
    site: Site, make_payload: MakePayload, tmp_path: Path, way: str
) -> None:
    payload = make_payload(NAME)
    # curl appends the name to an address that ends in a slash, but not after -X POST.
    url = site.files.rstrip("/") if way == "chunks" else site.files
    location = upload(site, *WAYS[way](str(payload.path)), url=url)
    info = site.curl(f"{location}info").json()
    assert (info["name"], info["size"], info["url"]) == (NAME, payload.size, location)
    saved = tmp_path / "saved"
    done = subprocess.run(site.curl_command("-o", str(saved), location), check=False, timeout=100)
    assert done.returncode == 0
    assert sha256_of(saved) == payload.sha256


def test_an_expectation_is_met_before_the_body(site: Site) -> None:
    headers = ("-H", "Expect: 100-continue", "-H", "Content-Type: a/b", "--data-binary", "@-")
    done = subprocess.run(
        site.curl_command("--http1.1", "--verbose", *headers, site.files),
        input=CONTENT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("< HTTP/")]
    assert said == ["< HTTP/1.1 100 Continue", "< HTTP/1.1 201 Created"]
    assert site.curl(f"{site.files}{done.stdout.decode()}/").body == CONTENT


def test_an_upload_that_is_too_large_is_refused_by_the_service_in_its_own_words(
    site: Site, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    before = site.stored()
    check_problem(site, site.curl("-T", str(large), site.files), 413, "too-large")
    assert site.stored() == before


@pytest.mark.parametrize("framing", [("Transfer-Encoding: chunked",),
                                     ("Transfer-Encoding:", "Content-Length: 8388608")],
                         ids=["chunks", "length"])  # fmt: skip
def test_an_upload_cut_by_its_client_leaves_nothing(site: Site, framing: tuple[str, ...]) -> None:
    before, logged, spilled = site.stored(), len(site.read_log()), site.count_spilled()

    def has_begun() -> bool:
        # Where nginx buffers, it has the upload, and the service hears nothing of it.
        is_spilled = site.count_spilled() > spilled
        return is_spilled if site.variant.is_buffered else site.stored() != before

    headers = [part for header in framing for part in ("-H", header)]
    command = site.curl_command("-X", "POST", "-T", "-", *headers, site.files.rstrip("/"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as curl:
        try:
            assert curl.stdin is not None
            curl.stdin.write(os.urandom(4 * MIB))
            curl.stdin.flush()
            eventually(has_begun, "half of the upload arrives")
        finally:
            curl.kill()
    eventually(lambda: len(site.read_log()) > logged, "nginx gives up")
    eventually(lambda: site.stored() == before, "nothing is left of it")
    check_calm(site)


# --- downwards ---


def test_a_link_is_followed_from_outside(site: Site, stored: str) -> None:
    answer = site.curl(stored)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.mark.parametrize(
    ("span", "content"),
    [
        ("100-199", CONTENT[100:200]),
        ("-5", CONTENT[-5:]),
        (f"{len(CONTENT) - 1}-", CONTENT[-1:]),
    ],
)
def test_a_range_is_that_range(site: Site, stored: str, span: str, content: bytes) -> None:
    answer = site.curl("-r", span, stored)
    assert (answer.status, answer.body) == (206, content)
    assert answer.headers["content-length"] == str(len(content))


def test_several_ranges_are_parts(site: Site, stored: str) -> None:
    answer = site.curl("-r", "0-9,1000-1009", stored)
    assert answer.status == 206
    boundary = answer.headers["content-type"].removeprefix("multipart/byteranges; boundary=")
    first, second = answer.body.split(f"--{boundary}".encode())[1:3]
    assert first.endswith(b"\r\n\r\n" + CONTENT[:10] + b"\r\n")
    assert second.endswith(b"\r\n\r\n" + CONTENT[1000:1010] + b"\r\n")


def test_a_download_is_resumed_while_the_file_is_the_same(
    site: Site, stored: str, tmp_path: Path
) -> None:
    etag = site.curl("-I", stored).headers["etag"]
    partial = tmp_path / "partial"
    partial.write_bytes(CONTENT[:5000])
    resume = ("-C", "-", "-H", f"If-Range: {etag}", "-o", str(partial), stored)
    assert subprocess.run(site.curl_command(*resume), check=False, timeout=60).returncode == 0
    assert partial.read_bytes() == CONTENT
    stale = site.curl("-H", 'If-Range: "stale"', "-H", "Range: bytes=5000-", stored)
    assert (stale.status, stale.body) == (200, CONTENT)


def test_head_tells_what_get_would(site: Site, stored: str) -> None:
    told, sent = site.curl("-I", stored), site.curl(stored)
    for answer in told, sent:
        for own in ("date", "x-request-id"):
            del answer.headers[own]
    assert (told.status, told.headers) == (200, sent.headers)
    assert told.headers["content-length"] == str(len(CONTENT))


def test_conditions_are_judged_by_the_service(site: Site, stored: str) -> None:
    etag = site.curl("-I", stored).headers["etag"]
    same = site.curl("-H", f"If-None-Match: {etag}", stored)
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    other = site.curl("-H", 'If-Match: "other"', stored)
    check_problem(site, other, 412, "precondition-failed")
    beyond = site.curl("-H", f"Range: bytes={len(CONTENT)}-", stored)
    check_problem(site, beyond, 416, "range-not-satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(CONTENT)}"


def test_a_deleted_file_is_gone(site: Site, stored: str) -> None:
    assert site.curl("-X", "DELETE", stored).status == 204
    check_problem(site, site.curl(stored), 404, "file-not-found")
    check_problem(site, site.curl(f"{site.root}/nothing"), 404, "not-found")


# --- who asked for what ---


def test_the_request_id_is_nginxs_not_the_callers(site: Site) -> None:
    answer = site.curl("-H", "X-Request-ID: mine", f"{site.files}x/")
    assert answer.headers["x-request-id"] != "mine"
    check_problem(site, answer, 404, "file-not-found")


@pytest.mark.parametrize(
    "claim", ["", "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6"], ids=["none", "old", "new"]
)
def test_the_log_has_the_clients_own_address_whatever_it_claims(site: Site, claim: str) -> None:
    answer = site.curl(*(("-H", claim) if claim else ()), f"{site.files}x/")
    assert remote_of(site, answer) == CLIENT


def test_a_proxy_that_is_not_listed_is_not_believed(tmp_path: Path) -> None:
    with running_site(VARIANTS["unbuffered"], tmp_path, "--trusted-proxies", "10.0.0.0/8") as site:
        assert remote_of(site, site.curl(f"{site.files}x/")) == "127.0.0.1"


def remote_of(site: Site, answer: Answer) -> str:
    """Whom the service's log names as the caller."""
    request_id = answer.headers["x-request-id"]

    def lines() -> list[dict[str, Any]]:
        return [
            line
            for line in site.service.lines
            if line["message"] == "request" and line["request_id"] == request_id
        ]

    eventually(lambda: bool(lines()), "the request is logged")
    (line,) = lines()
    return str(line["remote"])


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/x/../metrics"]
)
def test_metrics_are_not_for_the_outside(site: Site, path: str) -> None:
    assert ask_once(site.service, "GET", "/metrics").status == 200
    assert site.curl("--path-as-is", f"{site.root}{path}").status == 404


def test_connections_to_the_service_are_kept_where_http_1_1_is_spoken(site: Site) -> None:
    assert {site.curl(f"{site.root}/healthz").status for _ in range(5)} == {200}
    port = urlsplit(site.service.url).port

    def has_kept() -> bool:
        table = Path("/proc/net/tcp").read_text().splitlines()[1:]
        # From nginx's side: the service's port is the remote one; 01 is ESTABLISHED.
        return any(row.split()[2:4] == [f"0100007F:{port:04X}", "01"] for row in table)

    eventually(lambda: has_kept() != site.variant.is_buffered, "connections are kept, or not")


def check_calm(site: Site) -> None:
    """The service has complained about nothing."""
    assert site.curl(f"{site.root}/healthz").status == 200
    bad = [line for line in site.service.lines if line["level"] not in {"debug", "info"}]
    assert bad == [], json.dumps(bad)


# --- the page ---


@pytest.mark.chromium
async def test_the_upload_page_works_behind_it(
    site: Site, browser: Browser, make_payload: MakePayload
) -> None:
    payload = make_payload("a.bin", 3 * MIB)
    context = await browser.new_context(ignore_https_errors=True)
    there = UploadPage(await context.new_page())
    await there.open(f"{site.root}/", speed=MIB)
    await there.choose(payload.path)
    await there.see_some_sent("a.bin", 0.3)
    await there.button("Pause a.bin").click()
    await there.throttle(-1)
    await there.button("Resume a.bin").click()
    link = await there.find_link("a.bin")
    assert link.startswith(site.files)
    assert site.curl(link).sha256 == payload.sha256
    assert (there.said, there.network) == ([], [])
