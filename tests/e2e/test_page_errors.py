"""What the upload page says when something goes wrong, and what it does about it."""

import os

import pytest
from playwright.async_api import Route, expect

from tests.conftest import MakeService
from tests.e2e.conftest import MakePayload, check_link, sqlite_only
from tests.e2e.upload_page import MB, UploadPage
from tests.processes import ServiceProcess

pytestmark = [pytest.mark.chromium, sqlite_only]


async def test_a_file_that_is_too_large_is_refused_in_words_before_a_byte_is_sent(
    make_service: MakeService, clean: UploadPage, make_payload: MakePayload
) -> None:
    await clean.open(make_service("--max-size", "1MB").url)
    await expect(clean.page.get_by_text("Up to 1 MB each.")).to_be_visible()
    await clean.choose(make_payload("large.bin", 2 * MB).path)
    await clean.see("large.bin", "failed")
    words = "It has 2 MB; 1 MB is the most the service takes."
    await expect(clean.row("large.bin")).to_contain_text("This file is too large")
    await expect(clean.row("large.bin")).to_contain_text(words)
    await clean.hear(f"large.bin: This file is too large. {words}")
    await expect(clean.button("Try again large.bin")).to_have_count(0)


async def test_what_the_service_says_of_a_refusal_is_shown(
    make_service: MakeService, there: UploadPage, make_payload: MakePayload
) -> None:
    """The limit is not known here: the page goes by the problem details alone."""
    service = make_service("--max-size", "1000")
    await there.page.route(
        "**/uploads/",
        lambda route: (
            route.fulfill(status=204) if route.request.method == "OPTIONS" else route.continue_()
        ),
    )
    await there.open(service.url)
    await there.choose(make_payload("large.bin", 1001).path)
    await there.see("large.bin", "failed")
    await expect(there.row("large.bin")).to_contain_text("This file is too large")
    await expect(there.row("large.bin")).to_contain_text("A file may have at most 1000 bytes.")


PROBLEM = """{"type": "/problems/%s", "title": "A title", "status": %d, "detail": "A detail."}"""


@pytest.mark.parametrize(
    ("status", "code", "title", "detail"),
    [
        (400, "bad-name", "A title", "A detail."),
        (403, "forbidden", "The service refuses this upload", "A detail."),
        (404, "upload-not-found", "This upload is gone", "send it from the start"),
        (410, "upload-expired", "This upload has expired", "send it from the start"),
        (423, "upload-taken-over", "This upload goes on elsewhere", "go on here instead"),
        (507, "no-room", "There is no room for this file", "A detail."),
    ],
)
async def test_every_refusal_of_bytes_has_words(
    service: ServiceProcess,
    there: UploadPage,
    make_payload: MakePayload,
    status: int,
    code: str,
    title: str,
    detail: str,
) -> None:
    refusal = PROBLEM % (code, status)
    await there.page.route(
        "**/uploads/*",
        lambda route: (
            route.fulfill(status=status, body=refusal, content_type="application/problem+json")
            if route.request.method == "PATCH"
            else route.continue_()
        ),
    )
    await there.open(service.url)
    payload = make_payload("a.bin", 1000)
    await there.choose(payload.path)
    await there.see("a.bin", "failed")
    await expect(there.row("a.bin")).to_contain_text(title)
    await expect(there.row("a.bin")).to_contain_text(detail)
    await there.page.unroute_all()
    if status != 400:
        await there.button("Try again a.bin").click()
        check_link(service, await there.find_link("a.bin"), payload)


async def test_an_error_page_of_a_proxy_has_words_too(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    await there.page.route(
        "**/uploads/",
        lambda route: (
            route.fulfill(status=418, body="<h1>no</h1>", content_type="text/html")
            if route.request.method == "POST"
            else route.continue_()
        ),
    )
    await there.open(service.url)
    await there.choose(make_payload("a.bin", 1000).path)
    await expect(there.row("a.bin")).to_contain_text("The service could not take this file")
    await expect(there.row("a.bin")).to_contain_text("The answer was 418.")


async def test_a_creation_that_was_given_up_can_be_tried_again(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    """After an hour of trying; here, after two."""

    async def shorten(route: Route) -> None:
        answer = await route.fetch()
        source = await answer.text()
        assert source.count(DELAYS) == 1
        await route.fulfill(response=answer, body=source.replace(DELAYS, "[10];"))

    await there.page.route("**/transfer.js", shorten)
    await there.page.route("**/uploads/", lambda route: route.abort())
    await there.open(service.url)
    payload = make_payload("a.bin", 1000)
    await there.choose(payload.path)
    await there.see("a.bin", "failed")
    await there.page.unroute_all()
    await there.button("Try again a.bin").click()
    check_link(service, await there.find_link("a.bin"), payload)


DELAYS = "[500, 1000, 2000, 5000, 10_000, 20_000, ...Array(120).fill(30_000)];"


async def test_a_service_that_is_not_ready_does_not_make_an_upload_begin_anew(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    """As while it is started again behind a proxy, which answers 502 meanwhile."""
    payload = make_payload("film.mp4", 6 * MB)
    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.3)
    await there.button("Pause film.mp4").click()
    await there.page.route("**/uploads/*", lambda route: route.fulfill(status=502))
    await there.button("Resume film.mp4").click()
    await there.see("film.mp4", "waiting")
    await expect(there.row("film.mp4")).to_contain_text("Trying again by itself")
    await there.page.unroute_all()
    await there.throttle(-1)
    check_link(service, await there.find_link("film.mp4"), payload)
    assert len(there.find_uploads()) == 1
    assert there.find_offsets()[-1] > MB


async def test_a_file_that_was_changed_meanwhile_is_not_tried_again_for_ever(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("notes.txt", 6 * MB)
    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("notes.txt", 0.1)
    await there.button("Pause notes.txt").click()
    payload.path.write_bytes(b"other")
    os.utime(payload.path, (1, 1))
    await there.button("Resume notes.txt").click()
    await expect(there.row("notes.txt")).to_contain_text("The file can no longer be read")
