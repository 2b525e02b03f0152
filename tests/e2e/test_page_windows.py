"""The upload page in two windows, and choosing again: no file that is done is taken away."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, BrowserContext, Route

from tests.e2e.conftest import MakePayload, check_link, sqlite_only
from tests.e2e.upload_page import MB, UploadPage
from tests.processes import ServiceProcess

pytestmark = [pytest.mark.chromium, sqlite_only]


@pytest.fixture
async def windows(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Windows of one browser, which remember the same."""
    context = await browser.new_context()
    yield context
    await context.close()


async def open_window(windows: BrowserContext, url: str, speed: int = -1) -> UploadPage:
    window = UploadPage(await windows.new_page())
    await window.open(url, speed=speed)
    return window


async def test_what_another_window_has_taken_over_is_not_removed_with_its_row(
    service: ServiceProcess, windows: BrowserContext, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 4 * MB)
    one = await open_window(windows, service.url, speed=MB)
    await one.choose(payload.path)
    await one.see_some_sent("film.mp4", 0.2)
    other = await open_window(windows, service.url)
    await other.choose(payload.path)
    link = await other.find_link("film.mp4")
    await one.see("film.mp4", "failed")
    await one.button("Remove film.mp4").click()
    await asyncio.sleep(1)
    check_link(service, link, payload)


async def test_what_goes_on_in_one_window_is_no_leftover_in_another(
    service: ServiceProcess, windows: BrowserContext, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 4 * MB)
    one = await open_window(windows, service.url, speed=MB)
    await one.choose(payload.path)
    await one.see_some_sent("film.mp4", 0.2)
    await one.page.reload()
    await one.see("film.mp4", "unfinished")
    other = await open_window(windows, service.url)
    await other.see("film.mp4", "unfinished")
    await one.throttle(-1)
    await one.choose(payload.path)
    link = await one.find_link("film.mp4")
    await other.row("film.mp4").wait_for(state="detached")
    check_link(service, link, payload)


async def test_a_paused_row_that_another_window_has_finished_is_cancelled_alone(
    service: ServiceProcess, windows: BrowserContext, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 4 * MB)
    one = await open_window(windows, service.url, speed=MB)
    await one.choose(payload.path)
    await one.see_some_sent("film.mp4", 0.2)
    await one.button("Pause film.mp4").click()
    other = await open_window(windows, service.url)
    await other.choose(payload.path)
    link = await other.find_link("film.mp4")
    async with one.page.expect_response(lambda answer: answer.request.method == "HEAD"):
        await one.button("Cancel film.mp4").click()
    await asyncio.sleep(1)
    check_link(service, link, payload)


async def test_a_file_that_is_cancelled_and_chosen_again_is_not_taken_away_late(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 4 * MB)
    lost, passed = 0, asyncio.Event()

    async def lose(route: Route) -> None:
        nonlocal lost
        if route.request.method != "DELETE":
            await route.continue_()
        elif lost < 2:
            lost += 1
            await route.abort()
        else:
            await route.continue_()
            passed.set()

    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.2)
    await there.page.route("**/uploads/*", lose)
    await there.button("Cancel film.mp4").click()
    await there.throttle(-1)
    await there.choose(payload.path)
    link = await there.find_link("film.mp4")
    async with asyncio.timeout(30):
        await passed.wait()
    await asyncio.sleep(0.5)
    check_link(service, link, payload)
    assert len(there.find_uploads()) == 2


@pytest.mark.parametrize("status", [401, 429])
async def test_what_was_sent_is_kept_whatever_a_proxy_says_for_a_moment(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload, status: int
) -> None:
    payload = make_payload("film.mp4", 4 * MB)
    refused = 0

    async def refuse(route: Route) -> None:
        nonlocal refused
        if route.request.method == "HEAD" and not refused:
            refused += 1
            await route.fulfill(status=status)
        else:
            await route.continue_()

    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.5)
    await there.button("Pause film.mp4").click()
    await there.page.route("**/uploads/*", refuse)
    await there.throttle(-1)
    await there.button("Resume film.mp4").click()
    if status == 401:
        await there.see("film.mp4", "failed")
        await there.button("Try again film.mp4").click()
    check_link(service, await there.find_link("film.mp4"), payload)
    assert len(there.find_uploads()) == 1
    assert there.find_offsets()[-1] > 0
