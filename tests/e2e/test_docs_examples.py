"""docs/resumable.md: its examples run as they are printed, only the address is another one."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Route, expect

from tests.conftest import MakeService
from tests.cutting_proxy import cutting
from tests.e2e.conftest import (
    MakePayload,
    Payload,
    check_link,
    eventually,
    find_node_client,
    find_program,
    sqlite_only,
)
from tests.e2e.stored import PDF, SIZE, check_stored
from tests.processes import ServiceProcess, service_environment

pytestmark = sqlite_only

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "resumable.md"
PRINTED = "http://127.0.0.1:8080"
NAME = "report.pdf"
MIDDLE = 1_234_567
UNCUT = 10**9

# What heads of requests, and what was on the way when a wire broke, may add to the bytes.
SLACK = 300_000


def find_examples(heading: str, language: str) -> list[str]:
    """The blocks of code below a heading of the page."""
    _, found, section = DOCS.read_text().partition(f"\n## {heading}\n")
    assert found, heading
    section = section.partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def at(url: str, example: str) -> str:
    """The example as it is printed, but for the address."""
    assert PRINTED in example
    return example.replace(PRINTED, url)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def payload(make_payload: MakePayload) -> Payload:
    """The file that the examples send, alone in the folder they run in."""
    return make_payload(NAME, SIZE)


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment without this machine's proxies, and without anyone's settings."""
    return service_environment(
        HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path / "state"), no_proxy="*", NO_PROXY="*"
    )


@pytest.fixture
def run(payload: Payload, surroundings: dict[str, str]) -> Run:
    """Run a program beside the file; return what it printed."""

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=payload.path.parent,
            env=surroundings | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done

    return run


def check_printed(service: ServiceProcess, printed: str, payload: Payload) -> None:
    """What was printed is an id, and nothing else, and the file of that id is the one sent."""
    check_stored(service, printed.strip(), payload, payload.path.name, PDF)


# ── curl ──


@pytest.fixture
def sh(run: Run) -> Callable[[str], str]:
    """Run lines as a terminal does: one that fails does not keep the next from being run."""
    shell = find_program("sh")
    find_program("curl")
    return lambda lines: run(shell, "-c", lines).stdout


@pytest.fixture(params=["", "https://files.example.org", "https://example.org/files"])
def service_anywhere(request: pytest.FixtureRequest, make_service: MakeService) -> ServiceProcess:
    """A service that answers with paths, or with links under the address it is known by."""
    return make_service(*(("--public-url", request.param) if request.param else ()))


def test_curl_sends_a_file_by_tus(
    service_anywhere: ServiceProcess, sh: Callable[[str], str], payload: Payload
) -> None:
    tus = find_examples("curl", "sh")[0]
    check_printed(service_anywhere, sh(at(service_anywhere.url, tus)), payload)


def test_curl_goes_on_by_tus_with_the_last_two_commands_again(
    service_anywhere: ServiceProcess, sh: Callable[[str], str], payload: Payload
) -> None:
    tus = find_examples("curl", "sh")[0]
    last_two = tus.partition("\n\n")[2]
    with cutting(service_anywhere.url, cuts=[UNCUT, UNCUT, MIDDLE]) as proxy:
        printed = sh(at(proxy.url, tus) + last_two)
        check_printed(service_anywhere, printed, payload)
    assert proxy.cut_connections == 1
    assert proxy.sent < SIZE + SLACK


def test_curl_sends_a_file_by_the_draft(
    service_anywhere: ServiceProcess, sh: Callable[[str], str], payload: Payload
) -> None:
    draft = find_examples("curl", "sh")[1]
    check_printed(service_anywhere, sh(at(service_anywhere.url, draft)), payload)


def test_curl_goes_on_by_the_draft(
    service_anywhere: ServiceProcess, sh: Callable[[str], str], payload: Payload
) -> None:
    _, draft, go_on = find_examples("curl", "sh")
    with cutting(service_anywhere.url, cuts=[MIDDLE]) as proxy:
        printed = sh(at(proxy.url, draft) + go_on)
        check_printed(service_anywhere, printed, payload)
    assert proxy.cut_connections == 1
    assert proxy.sent < SIZE + SLACK


# ── tus-js-client ──


@pytest.fixture
def node(payload: Payload) -> str:
    """Node, which finds the packages of tests/clients beside the file."""
    program, packages = find_node_client("node_modules")
    (payload.path.parent / "node_modules").symlink_to(packages)
    return program


def write_module(folder: Path, url: str) -> None:
    (module,) = find_examples("tus-js-client", "js")
    (folder / "report.mjs").write_text(at(url, module))


def test_tus_js_client_sends_a_file(
    service: ServiceProcess, node: str, run: Run, payload: Payload
) -> None:
    write_module(payload.path.parent, service.url)
    check_printed(service, run(node, "report.mjs").stdout, payload)
    assert (payload.path.parent / "uploads.json").read_text() == "{}"


def test_tus_js_client_that_was_killed_goes_on_when_it_is_run_again(
    service: ServiceProcess, node: str, run: Run, payload: Payload
) -> None:
    folder = payload.path.parent
    with cutting(service.url, stop_at=SIZE // 6) as proxy:
        write_module(folder, proxy.url)
        with subprocess.Popen([node, "report.mjs"], cwd=folder) as killed:
            try:
                proxy.wait_for(4 * (SIZE // 6))
                eventually((folder / "uploads.json").exists, "what is unfinished is remembered")
            finally:
                killed.kill()
        proxy.go_on()
        check_printed(service, run(node, "report.mjs").stdout, payload)
    assert count_creations(service) == 4 + 1, "not the four parts of the first run, put together"


def count_creations(service: ServiceProcess) -> int:
    """How many uploads were created until now, when the service is stopped."""
    service.stop()
    service.wait_for("worker stopping")
    return sum(line.get("method") == "POST" for line in service.lines)


def test_tus_js_client_that_cannot_go_on_says_why_and_fails(
    service: ServiceProcess, node: str, payload: Payload
) -> None:
    write_module(payload.path.parent, f"{service.url}/nowhere")
    done = subprocess.run(
        [node, "report.mjs"], cwd=payload.path.parent, capture_output=True, timeout=90, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"response code: 404" in done.stderr


# ── Uppy ──


ShowUppy = Callable[[str], Awaitable[Page]]


@pytest.fixture
def show_uppy(node: str, run: Run, page: Page, payload: Payload) -> ShowUppy:
    """Open the page, with its module as it is bundled, on the site of the service."""

    async def show(url: str) -> Page:
        html, module = find_examples("Uppy", "html")[0], find_examples("Uppy", "js")[0]
        site = {"/uppy/": html, "/uppy/upload.js": bundle(node, run, payload, at(url, module))}

        async def answer(route: Route) -> None:
            path = urlsplit(route.request.url).path
            kind = "text/javascript" if path.endswith(".js") else "text/html"
            await route.fulfill(body=site[path], content_type=kind)

        await page.route("**/uppy/**", answer)
        await page.goto(f"{url}/uppy/")
        return page

    return show


def bundle(node: str, run: Run, payload: Payload, module: str) -> str:
    """The module and the packages that it names, in one."""
    (payload.path.parent / "upload.js").write_text(module)
    esbuild = "node_modules/esbuild-wasm/bin/esbuild"
    return run(node, esbuild, "upload.js", "--bundle", "--format=esm", "--log-level=error").stdout


async def check_linked(service: ServiceProcess, page: Page, payload: Payload) -> None:
    """See that the page comes to show a link to the file."""
    link = page.get_by_role("link", name=payload.path.name)
    await expect(link).to_be_visible(timeout=20_000)
    check_link(service, await link.get_attribute("href") or "", payload)


@pytest.mark.chromium
async def test_uppy_sends_the_files_that_are_chosen_and_links_them(
    service: ServiceProcess, show_uppy: ShowUppy, payload: Payload, make_payload: MakePayload
) -> None:
    page = await show_uppy(service.url)
    second = make_payload("notes.txt", 11)
    await page.locator("input").set_input_files([payload.path, second.path])
    await check_linked(service, page, payload)
    await check_linked(service, page, second)
    assert await page.evaluate("Object.keys(localStorage)") == []


@pytest.mark.chromium
async def test_uppy_goes_on_with_a_file_that_is_chosen_again(
    service: ServiceProcess, show_uppy: ShowUppy, payload: Payload
) -> None:
    with cutting(service.url, stop_at=MIDDLE) as proxy:
        page = await show_uppy(proxy.url)
        await page.locator("input").set_input_files(payload.path)
        await asyncio.to_thread(proxy.wait_for, MIDDLE)
        await page.reload()
        proxy.go_on()
        await page.locator("input").set_input_files(payload.path)
        await check_linked(service, page, payload)
    assert count_creations(service) == 1


# ── Python: tuspy, and our script ──


def test_tuspy_sends_a_file(service: ServiceProcess, run: Run, payload: Payload) -> None:
    (module,) = find_examples("tuspy", "python")
    printed = run(sys.executable, "-c", at(service.url, module)).stdout
    check_printed(service, printed, payload)


@pytest.fixture
def script(run: Run, service: ServiceProcess, payload: Payload) -> Callable[[str], str]:
    """Run a command of ours where the project's folders are."""
    folder = payload.path.parent
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "scripts").symlink_to(ROOT / "scripts")
    port = str(urlsplit(service.url).port)
    return lambda line: run(find_program("sh"), "-c", line, FILE_SERVICE_PORT=port).stdout


def test_the_script_sends_what_each_of_its_commands_names(
    service: ServiceProcess, script: Callable[[str], str], make_payload: MakePayload
) -> None:
    whole, parts, several = find_examples("The script", "sh")[0].splitlines()
    video, notes, photo = (
        make_payload(name, SIZE) for name in ("video.mkv", "notes.txt", "photo.jpg")
    )
    photos = photo.path.parent / "photos"
    photos.mkdir()
    photo.path.rename(photos / photo.path.name)

    for line in (whole, parts):
        check_link(service, f"/files/{script(line).strip()}/", video)
    ids = dict(line.split("\t")[::-1] for line in script(several).splitlines())
    for path, sent in {"photos/photo.jpg": photo, "notes.txt": notes}.items():
        check_link(service, f"/files/{ids.pop(path)}/", sent)
    assert ids == {}
