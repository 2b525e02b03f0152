"""No script of an uploaded file ever runs, seen from inside a real browser.

A plain server of the test's own has the same bytes without the service's headers: that they run
there proves that they would be noticed here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, BrowserContext, Error, Page

from tests.e2e.active_content import INCLUDED_RUNS, PAYLOADS, REFUSED, RUNS, SHOWN
from tests.e2e.conftest import DEADLINE_SECONDS, connected, eventually, sqlite_only
from tests.processes import ServiceProcess

pytestmark = pytest.mark.chromium

SENTINEL = "sentinel"
PAGE = "<!doctype html><title>empty</title>"


@dataclass
class Site:
    """A server of the test's own: it hears the beacons, and serves the bytes without a header."""

    url: str = ""
    ran: set[str] = field(default_factory=set)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def build(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/ran/{case}", self._hear)
        app.router.add_get("/files/{case}/", self._serve)
        app.router.add_get("/healthz", self._show)
        app.router.add_get("/sentinel", self._show)
        return app

    @property
    def beacon(self) -> str:
        return f"{self.url}/ran"

    async def wait_for(self, cases: Iterable[str]) -> None:
        """Wait until every one of `cases` has run."""
        missing = set(cases)
        try:
            async with self._changed, asyncio.timeout(DEADLINE_SECONDS):
                await self._changed.wait_for(lambda: missing <= self.ran)
        except TimeoutError:
            raise AssertionError(f"did not run: {missing - self.ran}") from None

    async def _hear(self, request: web.Request) -> web.Response:
        async with self._changed:
            self.ran.add(request.match_info["case"])
            self._changed.notify_all()
        return web.Response(status=204)

    async def _serve(self, request: web.Request) -> web.Response:
        payload = next(each for each in PAYLOADS if each.case == request.match_info["case"])
        declared = {"Content-Type": payload.media_type or ""}
        return web.Response(body=payload.build(self.beacon), headers=declared)

    async def _show(self, request: web.Request) -> web.Response:
        text = PAGE
        if request.path == "/sentinel":
            text += f"<script>fetch('{self.beacon}/{SENTINEL}')</script>"
        return web.Response(text=text, content_type="text/html")


MakeSite = Callable[[], Awaitable[Site]]


@pytest.fixture
def make_site(aiohttp_server: Callable[[web.Application], Awaitable[TestServer]]) -> MakeSite:
    """Start one more site of the test's own."""

    async def make() -> Site:
        site = Site()
        site.url = str((await aiohttp_server(site.build())).make_url("")).rstrip("/")
        return site

    return make


@pytest.fixture
async def site(make_site: MakeSite) -> Site:
    return await make_site()


@pytest.fixture
async def context(browser: Browser) -> BrowserContext:
    """A fresh profile, that lets every download begin, and keeps none."""
    return await browser.new_context(accept_downloads=False)


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


@pytest.fixture
def links(service: ServiceProcess, site: Site) -> dict[str, str]:
    """Every payload that the service takes, uploaded; the link of each."""
    links, refused = {}, set()
    with connected(service) as connection:
        for payload in PAYLOADS:
            declared = {} if payload.media_type is None else {"Content-Type": payload.media_type}
            content = payload.build(site.beacon)
            connection.request("PUT", f"/files/{payload.name}", content, declared)
            response = connection.getresponse()
            response.read()
            if response.status == 400:
                refused.add(payload.case)
            else:
                assert response.status == 201, payload.case
                links[payload.case] = service.url + str(response.headers["Location"])
    assert refused == REFUSED
    return links


# --- what the tests do in the browser ---

# As JavaScript: each element is there at once, whatever becomes of its request.
EMBED = """(links) => {
    for (const [tag, link] of links) {
        const element = document.createElement(tag);
        element[tag === 'object' ? 'data' : 'src'] = link;
        document.body.append(element);
    }
}"""

# Returns what was not refused.
INCLUDE = """async (links) => {
    const taken = [];
    const load = (tag, attributes) => new Promise((yes, no) => {
        const element = Object.assign(document.createElement(tag), attributes);
        element.onload = yes; element.onerror = no;
        document.head.append(element);
    });
    const ways = {
        script: (link) => load('script', {src: link}),
        module: (link) => load('script', {src: link, type: 'module'}),
        style: (link) => load('link', {href: link, rel: 'stylesheet'}),
        import: (link) => import(link),
        worker: (link) => new Promise((yes, no) => { new Worker(link).onerror = no; }),
        // Chromium tells nobody that it refused one: its beacon alone would.
        sharedworker: (link) => { new SharedWorker(link); throw null; },
        serviceworker: (link) => navigator.serviceWorker.register(link),
    };
    await Promise.all(links.map(async ([way, link]) => {
        try { await ways[way](link); taken.push([way, link]); } catch { }
    }));
    return taken;
}"""

# What a script may have left in an origin.
TRACES = """async () => [
    localStorage.length, sessionStorage.length, document.cookie.length,
    (await indexedDB.databases()).length, (await caches.keys()).length,
    (await navigator.serviceWorker.getRegistrations()).length,
]"""


async def open_link(page: Page, link: str) -> bool:
    """Open a link as a person does; whether it was shown, and not saved."""
    try:
        await page.goto(link)
    except Error as error:
        if "Download is starting" not in error.message:
            raise
        return False
    assert await page.title() != "ran"
    return True


async def embed(page: Page, service: ServiceProcess, links: dict[str, str]) -> None:
    """Embed every link in the page in every way, and wait until all of them were answered."""
    pairs = []
    for tag in ("iframe", "object", "embed", "img"):
        # An address of its own each, or the browser's cache answers.
        pairs += [[tag, f"{link}?{tag}"] for link in links.values()]
        asked_inline = [links[case] for case in links.keys() & (SHOWN | RUNS)]
        pairs += [[tag, f"{link}?disposition=inline&{tag}"] for link in asked_inline]
    await page.evaluate(EMBED, pairs)

    def are_answered() -> bool:
        gets = [line for line in service.lines if line.get("method") == "GET"]
        return sum("/files/" in line["path"] for line in gets) >= len(pairs)

    await asyncio.to_thread(eventually, are_answered, "an answer to everything embedded")


async def include(page: Page, pairs: list[list[str]]) -> list[list[str]]:
    """Include links in the page as what `pairs` says; return what was not refused."""
    async with asyncio.timeout(DEADLINE_SECONDS):  # a worker that runs never answers
        taken: list[list[str]] = await page.evaluate(INCLUDE, pairs)
    return taken


async def check_untouched(page: Page, service: ServiceProcess, site: Site) -> None:
    """Nothing but a script of the test's own has run, and nothing is in the service's origin."""
    assert await page.title() != "ran"
    # It starts after all those that must not.
    await page.evaluate(EMBED, [["iframe", f"{site.url}/sentinel"]])
    await site.wait_for([SENTINEL])
    await page.goto(f"{service.url}/healthz")
    assert await page.evaluate(TRACES) == [0] * 6
    assert await page.context.cookies() == []
    assert site.ran == {SENTINEL}


# --- the detector ---


async def test_without_our_headers_an_opened_link_runs_and_is_noticed(
    page: Page, site: Site
) -> None:
    for case in sorted(RUNS):
        # One that sends a form on as it is parsed is never loaded.
        await page.goto(f"{site.url}/files/{case}/", wait_until="commit")
        await site.wait_for([case])
    await page.goto(f"{site.url}/healthz")
    stored, *_ = await page.evaluate(TRACES)
    assert stored == 1
    assert [cookie["name"] for cookie in await page.context.cookies()] == ["ran"]


@pytest.mark.parametrize("tag", ["iframe", "object", "embed"])
async def test_without_our_headers_what_is_embedded_runs_and_is_noticed(
    page: Page, site: Site, make_site: MakeSite, tag: str
) -> None:
    elsewhere = await make_site()
    await page.goto(f"{elsewhere.url}/healthz")
    await page.evaluate(EMBED, [[tag, f"{site.url}/files/{case}/"] for case in sorted(RUNS)])
    await site.wait_for(RUNS)


async def test_without_our_headers_what_a_page_includes_runs_and_is_noticed(
    page: Page, site: Site, make_site: MakeSite
) -> None:
    elsewhere = await make_site()
    await page.goto(f"{elsewhere.url}/healthz")
    pairs = [("style" if c == "style" else "script", c) for c in sorted(INCLUDED_RUNS)]
    taken = await include(page, [[way, f"{site.url}/files/{c}/"] for way, c in pairs])
    assert len(taken) == len(INCLUDED_RUNS)
    await site.wait_for(INCLUDED_RUNS)


# --- the service ---


@sqlite_only
@pytest.mark.parametrize(
    ("query", "shown"),
    [("", set[str]()), ("?disposition=inline", SHOWN)],
    ids=["as it is", "inline"],
)
async def test_an_opened_link_runs_nothing(
    service: ServiceProcess,
    page: Page,
    site: Site,
    links: dict[str, str],
    query: str,
    shown: set[str],
) -> None:
    assert {case for case, link in links.items() if await open_link(page, link + query)} == shown
    await page.goto(f"{service.url}/healthz")
    await check_untouched(page, service, site)


@sqlite_only
@pytest.mark.parametrize("where", ["the service's origin", "another origin", "another site"])
async def test_a_page_that_embeds_a_file_runs_nothing(
    service: ServiceProcess,
    page: Page,
    site: Site,
    make_site: MakeSite,
    links: dict[str, str],
    where: str,
) -> None:
    await page.goto(f"{await choose_home(where, service, make_site)}/healthz")
    await embed(page, service, links)
    await check_untouched(page, service, site)


@sqlite_only
@pytest.mark.parametrize("where", ["the service's origin", "another origin", "another site"])
async def test_a_page_cannot_include_a_file_as_its_own_script_or_style(
    service: ServiceProcess,
    page: Page,
    site: Site,
    make_site: MakeSite,
    links: dict[str, str],
    where: str,
) -> None:
    await page.goto(f"{await choose_home(where, service, make_site)}/healthz")
    ways = ("script", "module", "import", "style", "worker", "sharedworker", "serviceworker")
    pairs = [[way, f"{link}?{way}"] for link in links.values() for way in ways]
    assert await include(page, pairs) == []
    await check_untouched(page, service, site)


async def choose_home(where: str, service: ServiceProcess, make_site: MakeSite) -> str:
    """Return where the page is that the test makes."""
    if where == "the service's origin":
        return service.url
    elsewhere = (await make_site()).url
    return elsewhere if where == "another origin" else elsewhere.replace("127.0.0.1", "localhost")
