"""Real clients against a real service process: curl, Chromium, and two workers behind one port."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.async_api import Error, Page

from tests.conftest import MakeService
from tests.e2e.conftest import (
    Curl,
    MakePayload,
    Payload,
    ShowPage,
    ask,
    ask_once,
    connected,
    descriptors_of,
    eventually,
    info_of,
    sha256_of,
    sqlite_only,
)
from tests.processes import ServiceProcess

NAME = 'Отчёт "за год" it\'s.pdf'
PDF = "application/pdf"
CHUNKED = ("-H", "Transfer-Encoding: chunked")


def disposition_of(name: str) -> tuple[str, str]:
    return "-H", f"Content-Disposition: attachment; filename*=UTF-8''{quote(name, safe='')}"


def check_stored(
    service: ServiceProcess, file_id: str, payload: Payload, name: str, media_type: str
) -> None:
    info = info_of(service, file_id)
    assert (info["name"], info["size"], info["media_type"]) == (name, payload.size, media_type)
    answer = ask_once(service, "GET", f"/files/{file_id}/")
    assert answer.status == 200
    assert answer.sha256 == payload.sha256


# --- curl, upwards ---


def test_curl_puts_a_file_under_its_own_name(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload(NAME)
    file_id = curl("-T", str(payload.path), f"{service.url}/files/")
    check_stored(service, file_id, payload, NAME, PDF)


def test_curl_streams_its_standard_input_in_chunks(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload(NAME)
    file_id = curl(
        *("-T", "-", "-X", "POST"),
        *CHUNKED,
        *disposition_of(NAME),
        f"{service.url}/files/",
        content=payload.path.read_bytes(),
    )
    check_stored(service, file_id, payload, NAME, PDF)


def test_curl_posts_binary_data_in_chunks_and_its_form_type_is_not_believed(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload("x")
    file_id = curl(
        *("--data-binary", f"@{payload.path}"),
        *CHUNKED,
        *disposition_of(NAME),
        f"{service.url}/files/",
    )
    check_stored(service, file_id, payload, NAME, PDF)


def test_curl_posts_binary_data_of_known_length(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload("x")
    file_id = curl(
        *("--data-binary", f"@{payload.path}"),
        *("-H", "Content-Type: text/plain; charset=koi8-r"),
        f"{service.url}/files/?filename={quote(NAME)}",
    )
    check_stored(service, file_id, payload, NAME, "text/plain; charset=koi8-r")


def test_curl_posts_a_form_with_a_text_field_and_a_file(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload(NAME)
    file_id = curl("-F", "title=годовой", "-F", f"file=@{payload.path}", f"{service.url}/files/")
    check_stored(service, file_id, payload, NAME, PDF)
    assert info_of(service, file_id)["metadata"] == {"title": "годовой"}


def test_curl_posts_a_form_with_two_files(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    first, second = make_payload(NAME), make_payload("second file.txt")
    forms = ("-F", "title=x", "-F", f"file=@{first.path}", "-F", f"file=@{second.path}")
    answers = json.loads(curl(*forms, f"{service.url}/files/"))
    assert [each["metadata"] for each in answers] == [{"title": "x"}] * 2
    check_stored(service, answers[0]["id"], first, NAME, PDF)
    check_stored(service, answers[1]["id"], second, "second file.txt", "text/plain")


def test_curl_posts_a_form_with_a_file_from_a_pipe(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload("x")
    form = ("-F", "file=@-;filename=x")
    file_id = curl(*form, f"{service.url}/files/", content=payload.path.read_bytes())
    check_stored(service, file_id, payload, "x", "application/octet-stream")


# --- curl, downwards ---


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("annual report (v2), it's.pdf", "annual report (v2), it's.pdf"),
        (NAME, "_____ ___ ____ it's.pdf"),
    ],
    ids=["ascii", "cyrillic and quotes"],
)
def test_curl_saves_a_file_under_the_ascii_form_of_its_name(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload, name: str, saved: str
) -> None:
    payload = make_payload(name)
    file_id = curl("-T", str(payload.path), f"{service.url}/files/")
    curl("-OJ", "--output-dir", str(payload.path.parent.parent), f"{service.url}/files/{file_id}/")
    assert sha256_of(payload.path.parent.parent / saved) == payload.sha256


@sqlite_only
def test_curl_is_told_everything_but_the_bytes_when_it_asks_for_the_headers(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload
) -> None:
    payload = make_payload(NAME)
    file_id = curl("-T", str(payload.path), f"{service.url}/files/")
    status, *fields = curl("-I", f"{service.url}/files/{file_id}/").strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in fields)
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Length"] == str(payload.size)
    assert headers["Content-Type"] == PDF
    assert headers["ETag"] == f'"{payload.sha256}"'
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"_____ ___ ____ it's.pdf\"; filename*=UTF-8''" + quote(NAME, safe="")
    )


# --- Chromium ---

# Chromium itself puts an underscore for quotes and for the joiners within an emoji.
SUGGESTED = {
    "Годовой отчёт за 2026 год.pdf": "Годовой отчёт за 2026 год.pdf",
    "보고서 최종.pdf": "보고서 최종.pdf",
    "👩\u200d👧 party 🎉.jpg": "👩_👧 party 🎉.jpg",
    'the "final" one\'s.txt': "the _final_ one's.txt",
}


@pytest.mark.chromium
async def test_chromium_downloads_what_a_plain_link_leads_to(
    service: ServiceProcess, make_payload: MakePayload, page: Page, show_page: ShowPage
) -> None:
    sent, links = {name: make_payload(name, 1_000_003) for name in SUGGESTED}, ""
    for name, payload in sent.items():
        answer = ask_once(service, "PUT", f"/files/{quote(name)}", payload.path.read_bytes())
        links += f"<a href='{service.url}{answer.headers['location']}'>{name}</a> "
    await page.goto(await show_page(links))
    for name, suggested in SUGGESTED.items():
        async with page.expect_download() as waiting:
            await page.get_by_role("link", name=name).click()
        download = await waiting.value
        assert download.suggested_filename == suggested
        assert sha256_of(await download.path()) == sent[name].sha256


@pytest.mark.chromium
@pytest.mark.timeout(600)
async def test_a_large_file_goes_in_and_comes_back_by_every_client(
    service: ServiceProcess, curl: Curl, make_payload: MakePayload, page: Page, show_page: ShowPage
) -> None:
    payload = make_payload("large.bin")
    url, path = f"{service.url}/files/", str(payload.path)
    ids = [
        curl("-T", path, url),
        curl(*CHUNKED, *disposition_of("large.bin"), "-X", "POST", "-T", path, url.rstrip("/")),
        curl("-F", f"file=@{path}", url),
        upload_by_script(service, path),
    ]
    saved = payload.path.parent.parent / "large.bin"
    for file_id in ids:
        curl("-OJ", "--output-dir", str(saved.parent), f"{url}{file_id}/")
        assert sha256_of(saved) == payload.sha256
        saved.unlink()
    await page.goto(await show_page(f"<a href='{url}{ids[0]}/'>large</a>"))
    async with page.expect_download(timeout=0) as waiting:
        await page.get_by_role("link", name="large").click()
    download = await waiting.value
    assert download.suggested_filename == "large.bin"
    assert sha256_of(await download.path()) == payload.sha256


def upload_by_script(service: ServiceProcess, path: str) -> str:
    """Upload by scripts/upload.py and return the id it prints."""
    port = service.url.rpartition(":")[2]
    script = Path(__file__).parents[2] / "scripts" / "upload.py"
    done = subprocess.run(
        [sys.executable, str(script), "--port", port, "--path", path],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.chromium
async def test_chromium_uploads_two_files_by_a_form(
    service: ServiceProcess, make_payload: MakePayload, page: Page, show_page: ShowPage
) -> None:
    first, second = make_payload(NAME), make_payload("보고서 🎉 100%.txt", 11)
    form = f"""<form method=post enctype=multipart/form-data action="{service.url}/files/">
        <input type=text name=title value="за год">
        <input type=file name=files multiple><button>send</button></form>"""
    await page.goto(await show_page(form))
    await page.locator("input[type=file]").set_input_files([first.path, second.path])
    async with page.expect_navigation() as waiting:
        await page.get_by_role("button", name="send").click()
    response = await waiting.value
    assert response.status == 201
    answers = await response.json()
    assert [each["metadata"] for each in answers] == [{"title": "за год"}] * 2
    check_stored(service, answers[0]["id"], first, NAME, PDF)
    check_stored(service, answers[1]["id"], second, second.path.name, "text/plain")


@sqlite_only
@pytest.mark.chromium
async def test_chromium_never_renders_an_uploaded_page(service: ServiceProcess, page: Page) -> None:
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>console.log('ran')</script></svg>"
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    for name in ("page.html", "image.svg"):
        location = ask_once(service, "PUT", f"/files/{name}", script).headers["location"]
        async with page.expect_download() as waiting:
            with pytest.raises(Error, match="Download is starting"):
                await page.goto(service.url + location)
        download = await waiting.value
        assert download.suggested_filename == name
        assert Path(await download.path()).read_bytes() == script
    assert page.url == "about:blank"
    assert said == []


# --- two workers behind one port ---


@pytest.fixture
def pair(make_service: MakeService) -> ServiceProcess:
    return make_service("--workers", "2")


def pids_of(service: ServiceProcess, count: int) -> list[int]:
    return [int(line["pid"]) for line in service.wait_for("worker started", count)]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def worker_of(connection: http.client.HTTPConnection, pids: list[int]) -> int:
    """The worker that holds the other end of a connection, as the kernel tells."""
    assert connection.sock is not None
    here, there = connection.sock.getsockname()[1], connection.sock.getpeername()[1]
    ends = f" 0100007F:{there:04X} 0100007F:{here:04X} "
    table = Path("/proc/net/tcp").read_text().splitlines()
    inode = next(line.split()[9] for line in table if ends in line)
    return next(pid for pid in pids if f"socket:[{inode}]" in descriptors_of(pid))


Connections = dict[int, list[http.client.HTTPConnection]]


@pytest.fixture
def connections(pair: ServiceProcess) -> Iterator[Connections]:
    """Two dozen open connections by worker; that one worker has none is a chance of 2 in 2**24."""
    pids = pids_of(pair, 2)
    with ExitStack() as stack:
        by_worker: Connections = {pid: [] for pid in pids}
        for _ in range(24):
            connection = stack.enter_context(connected(pair))
            assert ask(connection, "GET", "/healthz").status == 200
            by_worker[worker_of(connection, pids)].append(connection)
        yield by_worker


@sqlite_only
def test_both_workers_take_uploads(connections: Connections) -> None:
    for of_worker in connections.values():
        assert of_worker, "a worker got no connection"
        for connection in of_worker:
            assert ask(connection, "POST", "/files/", b"content").status == 201


@sqlite_only
def test_a_file_taken_by_one_worker_is_served_and_deleted_by_the_other(
    connections: Connections,
) -> None:
    first, second = connections.values()
    everyone = first + second
    for taker, deleter in (first[0], second[0]), (second[0], first[0]):
        path = f"/files/{ask(taker, 'POST', '/files/', b'content').text}/"
        assert {ask(each, "GET", path).body for each in everyone} == {b"content"}
        assert ask(deleter, "DELETE", path).status == 204
        assert {ask(each, "GET", path).status for each in everyone} == {404}


@sqlite_only
def test_a_killed_worker_is_replaced_and_no_request_is_refused_meanwhile(
    pair: ServiceProcess,
) -> None:
    victim, survivor = pids_of(pair, 2)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: not is_alive(victim), "the end of the worker")
    paths = []
    for _ in range(16):
        answer = ask_once(pair, "POST", "/files/", b"content")
        assert answer.status == 201
        paths.append(answer.headers["location"])
    successor = pids_of(pair, 3)[2]
    assert successor not in {victim, survivor}
    assert {ask_once(pair, "GET", path).body for path in paths} == {b"content"}
    assert pair.stop() == 0
    assert not is_alive(survivor)
    assert not is_alive(successor)


@sqlite_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_ends_every_process(
    pair: ServiceProcess, number: signal.Signals
) -> None:
    pids = pids_of(pair, 2)
    assert ask_once(pair, "GET", "/healthz").status == 200
    assert pair.stop(number) == 0
    assert [pid for pid in pids if is_alive(pid)] == []
    pair.wait_for("worker stopping", 2)


@sqlite_only
def test_an_interrupt_ends_a_service_of_one_process(service: ServiceProcess) -> None:
    assert service.stop(signal.SIGINT) == 0
    service.wait_for("worker stopping")


@sqlite_only
def test_workers_end_when_their_parent_is_killed(pair: ServiceProcess) -> None:
    pids = pids_of(pair, 2)
    assert pair.stop(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: not any(map(is_alive, pids)), "the end of the orphaned workers")
