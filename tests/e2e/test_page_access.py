"""The upload page for everybody: by keyboard, by name, by day and night, on a phone."""

import os
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.conftest import MakeService
from tests.e2e.conftest import MakePayload, sqlite_only
from tests.e2e.upload_page import MB, UploadPage
from tests.processes import ServiceProcess

pytestmark = [pytest.mark.chromium, sqlite_only]

# FILE_SERVICE_TEST_SCREENSHOT=1 draws the README's picture anew; port 8080 must be free for it.
IS_KEPT = os.environ.get("FILE_SERVICE_TEST_SCREENSHOT") == "1"
PICTURE = Path(__file__).parents[2] / "docs" / "upload-page.png"


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
    await expect(clean.button("Hide a.bin")).to_be_focused()
    await keyboard.press("Tab")
    await expect(clean.page.get_by_role("link", name="tus-js-client")).to_be_focused()
    await keyboard.press("Shift+Tab")
    await keyboard.press("Enter")
    await expect(clean.row("a.bin")).to_have_count(0)
    await expect(clean.page.get_by_role("button", name="Choose files")).to_be_focused()


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


async def test_the_picture_of_the_readme_is_drawn(
    make_service: MakeService, browser: Browser, make_payload: MakePayload
) -> None:
    page = await browser.new_page(
        viewport={"width": 880, "height": 700}, color_scheme="light", device_scale_factor=1.5
    )
    there = UploadPage(page)
    await there.open(make_service("--port", "8080" if IS_KEPT else "0").url, speed=3 * MB)
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
    drawn = await page.screenshot(full_page=True)
    if IS_KEPT:
        PICTURE.write_bytes(drawn)
    assert there.said == []
