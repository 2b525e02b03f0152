"""The upload page in a real browser: what a person does there, and what may never be seen."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import CDPSession, ConsoleMessage, Locator, Page, Request, expect

MB = 1_000_000
SECONDS = 30
expect.set_options(timeout=SECONDS * 1000)

# Chromium itself reports every answer of 400 or more, and every connection that failed.
NETWORK = "Failed to load resource"


@dataclass
class UploadPage:
    """The page at an address, slowed down where a test has to be quicker than its uploads."""

    page: Page
    said: list[str] = field(default_factory=list)
    network: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    _session: CDPSession | None = None

    async def open(self, url: str, *, speed: int = -1) -> None:
        """Open the page, with at most `speed` bytes a second from it."""
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._note)
        # Playwright takes its time to begin to catch choosers: in each test, from the start.
        self.page.on("filechooser", lambda _: None)
        await self.throttle(speed)
        await self.page.goto(url)

    def _hear(self, message: ConsoleMessage) -> None:
        (self.network if message.text.startswith(NETWORK) else self.said).append(message.text)

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    async def throttle(self, speed: int, *, offline: bool = False) -> None:
        """Let at most `speed` bytes a second leave the browser; -1 for as many as there are."""
        if self._session is None:
            self._session = await self.page.context.new_cdp_session(self.page)
            await self._session.send("Network.enable")
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": speed}
        await self._session.send(
            "Network.emulateNetworkConditions", {"offline": offline, **conditions}
        )

    async def choose(self, *paths: Path) -> None:
        """Choose files as a person does: by the button and the browser's dialog."""
        async with self.page.expect_file_chooser() as waiting:
            await self.page.get_by_role("button", name="Choose files").click()
        await (await waiting.value).set_files(list(paths))

    def row(self, name: str) -> Locator:
        has = self.page.get_by_text(name, exact=True)
        return self.page.locator("li.row", has=has)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    async def see(self, name: str, state: str) -> None:
        """Wait until the row of a file is in a state."""
        await expect(self.row(name)).to_have_attribute("data-state", state)

    async def see_some_sent(self, name: str, part: float) -> None:
        """Wait until this part of a file has left the browser."""
        bar = await self.row(name).locator("progress").element_handle()
        await self.page.wait_for_function(
            "([bar, part]) => bar.value >= part", arg=[bar, part], timeout=SECONDS * 1000
        )

    async def find_link(self, name: str) -> str:
        """Wait until a file is done; return its link."""
        await self.see(name, "done")
        anchor = self.row(name).get_by_role("link")
        href = await anchor.get_attribute("href")
        assert href == await anchor.text_content()
        return href or ""

    async def hear(self, text: str | re.Pattern[str]) -> None:
        """Wait until a text has been read out."""
        await expect(self.page.get_by_role("log")).to_contain_text(text)

    def find_offsets(self) -> list[int]:
        """Where every PATCH began."""
        return [int(each.headers["upload-offset"]) for each in self._of("PATCH")]

    def find_uploads(self) -> list[str]:
        """The path of every upload that bytes were sent to, each once, in order."""
        return list(dict.fromkeys(urlsplit(each.url).path for each in self._of("PATCH")))

    def _of(self, method: str) -> Iterable[Request]:
        return (each for each in self.requests if each.method == method)
