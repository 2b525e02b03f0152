"""The upload page as its users meet it: Chromium, the live service, slow lines and crashes."""

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, expect

from tests.conftest import MakeService
from tests.e2e.conftest import MakePayload, Payload, ask_once, info_of, sqlite_only
from tests.e2e.upload_page import UploadPage
from tests.processes import ServiceProcess

pytestmark = [pytest.mark.chromium, sqlite_only]

MB = 1_000_000
PICTURE = Path(__file__).parents[2] / "docs" / "upload-page.png"


@pytest.fixture
async def there(browser: Browser) -> AsyncIterator[UploadPage]:
    """The page; at the end the console must be empty: no error, no violation of the policy."""
    there = UploadPage(await (await browser.new_context()).new_page())
    yield there
    assert there.said == []


@pytest.fixture
async def clean(there: UploadPage) -> AsyncIterator[UploadPage]:
    """The same where no request may fail, either."""
    yield there
    assert there.network == []


def check_stored(service: ServiceProcess, link: str, payload: Payload) -> None:
    answer = ask_once(service, "GET", urlsplit(link).path)
    assert answer.status == 200
    assert answer.sha256 == payload.sha256
    info = info_of(service, urlsplit(link).path.split("/")[2])
    assert (info["name"], info["size"]) == (payload.path.name, payload.size)


# --- from choosing to the link ---


async def test_two_files_at_once_come_back_byte_for_byte_by_their_links(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payloads = [make_payload("Отчёт & <b>.pdf", 3 * MB), make_payload("보고서 🎉.txt", 11)]
    await clean.open(service.url)
    await clean.choose(*(each.path for each in payloads))
    for each in payloads:
        link = await clean.find_link(each.path.name)
        assert re.fullmatch(rf"{re.escape(service.url)}/files/[0-9a-f-]{{36}}/", link)
        check_stored(service, link, each)
        await clean.hear(f"{each.path.name} is uploaded. Its link is ready.")
    await expect(clean.page.get_by_text("2 of 2 done")).to_be_visible()
    assert await clean.page.evaluate("Object.keys(localStorage)") == []


async def test_an_empty_file_is_uploaded_too(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("empty.txt", 0)
    await clean.open(service.url)
    await clean.choose(payload.path)
    check_stored(service, await clean.find_link("empty.txt"), payload)


async def test_three_files_are_sent_at_once_and_the_others_wait_for_their_turn(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payloads = [make_payload(f"{number}.bin", 4 * MB) for number in range(5)]
    await clean.open(service.url, speed=400_000)
    await clean.choose(*(each.path for each in payloads))
    for number, state in enumerate(["sending"] * 3 + ["queued"] * 2):
        await clean.see(f"{number}.bin", state)
    assert len(clean.find_uploads()) == 3
    await clean.throttle(-1)
    for each in payloads:
        check_stored(service, await clean.find_link(each.path.name), each)


DROP = """async ([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type: "text/plain" }));
    const send = (type) => document.querySelector("main").dispatchEvent(new DragEvent(type, {
        dataTransfer: data, bubbles: true, cancelable: true }));
    send("dragenter");
    const seen = getComputedStyle(document.querySelector(".veil")).visibility;
    const isTaken = !send("dragover") && !send("drop");
    return [seen, isTaken, document.body.classList.contains("is-dragging")];
}"""


async def test_files_are_dropped_anywhere_on_the_page(
    service: ServiceProcess, clean: UploadPage
) -> None:
    await clean.open(service.url)
    assert await clean.page.evaluate(DROP, ["dropped.txt", "content"]) == ["visible", True, False]
    link = await clean.find_link("dropped.txt")
    assert ask_once(service, "GET", urlsplit(link).path).body == b"content"


async def test_the_link_is_copied_and_that_is_read_out(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    await clean.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await clean.open(service.url)
    await clean.choose(make_payload("a.txt", 5).path)
    link = await clean.find_link("a.txt")
    await clean.button("Copy link of a.txt").click()
    await clean.hear("The link of a.txt is copied.")
    assert await clean.page.evaluate("navigator.clipboard.readText()") == link
    await expect(clean.row("a.txt").get_by_text("Copied")).to_be_visible()


async def test_without_a_clipboard_the_link_is_selected(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    """As on plain HTTP in a local network, where browsers give none to a page."""
    script = """Object.defineProperty(navigator, "clipboard", { value: undefined });
        document.execCommand = () => false;"""
    await clean.page.add_init_script(script)
    await clean.open(service.url)
    await clean.choose(make_payload("a.txt", 5).path)
    link = await clean.find_link("a.txt")
    await clean.button("Copy link of a.txt").click()
    await clean.hear("The link of a.txt is selected.")
    assert await clean.page.evaluate("getSelection().toString()") == link


# --- pause, resume, cancel ---


async def test_a_paused_upload_stops_and_goes_on_where_it_was(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await clean.open(service.url, speed=MB)
    await clean.choose(payload.path)
    await clean.see_some_sent("film.mp4", 0.3)
    await clean.button("Pause film.mp4").click()
    await clean.see("film.mp4", "paused")
    await expect(clean.button("Resume film.mp4")).to_be_focused()
    assert clean.find_offsets() == [0]
    await clean.throttle(-1)
    await clean.button("Resume film.mp4").click()
    check_stored(service, await clean.find_link("film.mp4"), payload)
    assert clean.find_offsets()[1] > MB
    assert len(clean.find_uploads()) == 1


async def test_a_cancelled_upload_is_gone_at_the_service(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await clean.open(service.url, speed=MB)
    await clean.choose(payload.path)
    await clean.see_some_sent("film.mp4", 0.2)
    async with clean.page.expect_response(lambda answer: answer.request.method == "DELETE") as end:
        await clean.button("Cancel film.mp4").click()
    assert (await end.value).status == 204
    await expect(clean.row("film.mp4")).to_have_count(0)
    await expect(clean.page.get_by_role("button", name="Choose files")).to_be_focused()
    assert ask_once(service, "HEAD", clean.find_uploads()[0]).status in {404, 410}
    await clean.page.reload()
    await expect(clean.page.locator("#uploads")).to_be_hidden()


# --- what interrupts an upload ---


async def test_after_a_reload_the_same_file_chosen_again_goes_on(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await clean.open(service.url, speed=MB)
    await clean.choose(payload.path)
    await clean.see_some_sent("film.mp4", 0.4)
    await clean.page.reload()
    await clean.see("film.mp4", "unfinished")
    await expect(clean.row("film.mp4")).to_contain_text("Choose the file again to go on.")
    await clean.throttle(-1)
    async with clean.page.expect_file_chooser() as waiting:
        await clean.button("Choose again film.mp4").click()
    await (await waiting.value).set_files(payload.path)
    check_stored(service, await clean.find_link("film.mp4"), payload)
    assert clean.find_offsets()[1] > MB
    assert len(clean.find_uploads()) == 1


async def test_another_file_chosen_for_an_unfinished_one_is_not_taken_for_it(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await clean.open(service.url, speed=MB)
    await clean.choose(payload.path)
    await clean.see_some_sent("film.mp4", 0.2)
    await clean.page.reload()
    await clean.see("film.mp4", "unfinished")
    await clean.throttle(-1)
    async with clean.page.expect_file_chooser() as waiting:
        await clean.button("Choose again film.mp4").click()
    await (await waiting.value).set_files(make_payload("other.bin", 7).path)
    await clean.find_link("other.bin")
    await expect(clean.row("film.mp4")).to_contain_text("That is another file")
    async with clean.page.expect_response(lambda answer: answer.request.method == "DELETE"):
        await clean.button("Discard film.mp4").click()
    assert ask_once(service, "HEAD", clean.find_uploads()[0]).status in {404, 410}


async def test_a_window_does_not_offer_what_another_one_is_sending(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await clean.open(service.url, speed=MB)
    await clean.choose(payload.path)
    await clean.see_some_sent("film.mp4", 0.1)
    other = UploadPage(await clean.page.context.new_page())
    await other.open(service.url)
    await expect(other.page.locator("#limit")).to_be_hidden()
    await expect(other.row("film.mp4")).to_have_count(0)
    await clean.throttle(-1)
    check_stored(service, await clean.find_link("film.mp4"), payload)


async def test_an_upload_goes_on_by_itself_after_the_service_was_killed(
    make_service: MakeService, there: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 8 * MB)
    service = make_service()
    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.5)
    service.stop(signal.SIGKILL)
    await there.see("film.mp4", "waiting")
    await there.hear("film.mp4 waits.")
    await there.throttle(-1)
    again = make_service("--port", str(urlsplit(service.url).port))
    check_stored(again, await there.find_link("film.mp4"), payload)
    assert there.find_offsets()[-1] > MB
    assert len(there.find_uploads()) == 1


async def test_an_upload_goes_on_as_soon_as_the_browser_is_back_online(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.3)
    await there.button("Pause film.mp4").click()
    await there.throttle(-1, offline=True)
    await there.page.evaluate("window.setTimeout = () => 0")  # its own delays never end
    await there.button("Resume film.mp4").click()
    await there.see("film.mp4", "waiting")
    await expect(there.row("film.mp4")).to_contain_text("You are offline.")
    await there.throttle(-1)
    check_stored(service, await there.find_link("film.mp4"), payload)
    assert there.find_offsets()[-1] > MB


async def test_an_upload_that_expired_meanwhile_begins_anew_and_says_so(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.2)
    await there.button("Pause film.mp4").click()
    await there.see("film.mp4", "paused")
    path = there.find_uploads()[0]
    assert ask_once(service, "DELETE", path).status in {204, 412}
    await there.page.evaluate(
        "path => fetch(path, {method: 'DELETE', headers: {'Tus-Resumable': '1.0.0'}})", path
    )
    await there.button("Resume film.mp4").click()
    await expect(there.row("film.mp4")).to_contain_text("it began from the start")
    await there.throttle(-1)
    check_stored(service, await there.find_link("film.mp4"), payload)
    assert len(there.find_uploads()) == 2


# --- errors in words ---


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
    if status not in {400}:
        await there.button("Try again a.bin").click()
        check_stored(service, await there.find_link("a.bin"), payload)


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
    check_stored(service, await there.find_link("film.mp4"), payload)
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


# --- for everybody ---


async def test_the_keyboard_alone_is_enough(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    await clean.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    payload = make_payload("a.bin", 4 * MB)
    await clean.open(service.url, speed=MB)
    keyboard = clean.page.keyboard
    await keyboard.press("Tab")
    await expect(clean.page.get_by_role("button", name="Choose files")).to_be_focused()
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert await clean.page.evaluate(ring) == "solid"
    async with clean.page.expect_file_chooser() as waiting:
        await keyboard.press("Enter")
    await (await waiting.value).set_files(payload.path)
    await clean.see("a.bin", "sending")
    await keyboard.press("Tab")
    await expect(clean.button("Pause a.bin")).to_be_focused()
    await keyboard.press("Enter")
    await clean.see("a.bin", "paused")
    await clean.throttle(-1)
    await expect(clean.button("Resume a.bin")).to_be_focused()
    await keyboard.press("Space")
    link = await clean.find_link("a.bin")
    await expect(clean.button("Copy link of a.bin")).to_be_focused()
    await keyboard.press("Enter")
    await clean.hear("The link of a.bin is copied.")
    assert await clean.page.evaluate("navigator.clipboard.readText()") == link
    await keyboard.press("Tab")
    await expect(clean.page.get_by_role("link", name="tus-js-client")).to_be_focused()


async def show_every_state(
    there: UploadPage, make_service: MakeService, make_payload: MakePayload
) -> None:
    """Bring up the page with a row in each state that stays."""
    await there.open(make_service("--max-size", "60MB").url)
    await there.choose(make_payload("Quarterly report.pdf", 2_418_331).path)
    await there.see("Quarterly report.pdf", "done")
    await there.choose(make_payload("disk image.iso", 61 * MB).path)
    await there.see("disk image.iso", "failed")
    await there.throttle(400_000)
    await there.choose(make_payload("Fotos vom Sommer – alle.zip", 5 * MB).path)
    await there.see_some_sent("Fotos vom Sommer – alle.zip", 0.2)
    await there.button("Pause Fotos vom Sommer – alle.zip").click()
    await there.choose(make_payload("holiday.mp4", 48 * MB).path)
    await there.see_some_sent("holiday.mp4", 0.02)


async def test_every_control_has_a_name(
    make_service: MakeService, clean: UploadPage, make_payload: MakePayload
) -> None:
    await show_every_state(clean, make_service, make_payload)
    tree = await clean.page.locator("body").aria_snapshot()
    roles = ("button", "link", "progressbar", "list", "listitem", "heading")
    assert {role for role in roles if f"- {role}" in tree} == set(roles)
    assert re.findall(r"- (?:button|link|progressbar|heading)(?! \").*", tree) == []
    names = re.findall(r'- button "([^"]*)"', tree)
    assert len(names) == len(set(names))
    assert {"Pause holiday.mp4", "Cancel holiday.mp4", "Remove disk image.iso"} <= set(names)
    assert 'progressbar "Progress of holiday.mp4"' in tree


# The least contrast of any text on the page with what is behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const rgb = parse(getComputedStyle(e).backgroundColor);
            if (rgb.length < 4 || rgb[3] === 1) return rgb;
        }
        return parse(getComputedStyle(document.body).backgroundColor);
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
        const pair = [light(parse(getComputedStyle(element).color)), light(behind(element))];
        found.push([(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), element.className]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_words_can_be_read_and_nothing_overflows_a_phone(
    make_service: MakeService,
    browser: Browser,
    make_payload: MakePayload,
    scheme: str,
) -> None:
    context = await browser.new_context(
        color_scheme="light" if scheme == "light" else "dark",
        viewport={"width": 320, "height": 640},
        reduced_motion="reduce",
        has_touch=True,
        is_mobile=True,
    )
    there = UploadPage(await context.new_page())
    await show_every_state(there, make_service, make_payload)
    pairs = await there.page.evaluate(CONTRAST)
    assert len(pairs) > 20
    assert [pair for pair in pairs if pair[0] < 4.5] == []
    assert await there.page.evaluate("document.documentElement.scrollWidth") == 320
    for button in await there.page.get_by_role("button").all():
        box = await button.bounding_box()
        assert box is not None
        assert box["height"] >= 44  # a finger's width
    assert there.said == []


@pytest.mark.skipif(
    os.environ.get("FILE_SERVICE_TEST_SCREENSHOT") != "1",
    reason="the picture of the README is drawn anew with FILE_SERVICE_TEST_SCREENSHOT=1",
)
async def test_the_picture_of_the_readme_is_drawn(
    make_service: MakeService, browser: Browser, make_payload: MakePayload
) -> None:
    page = await browser.new_page(
        viewport={"width": 880, "height": 700}, color_scheme="light", device_scale_factor=1.5
    )
    there = UploadPage(page)
    await there.open(make_service("--port", "8080").url, speed=3 * MB)
    await there.choose(make_payload("Quarterly report.pdf", 2_418_331).path)
    await there.see("Quarterly report.pdf", "done")
    await there.choose(
        make_payload("holiday.mp4", 48 * MB).path, make_payload("All the photos.zip", 31 * MB).path
    )
    await there.see_some_sent("All the photos.zip", 0.2)
    await there.button("Pause All the photos.zip").click()
    await there.see_some_sent("holiday.mp4", 0.55)
    await page.mouse.move(0, 0)
    await page.evaluate("document.activeElement.blur()")
    await page.screenshot(path=PICTURE, full_page=True)
