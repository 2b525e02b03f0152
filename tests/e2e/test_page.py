"""The upload page as its users meet it: Chromium, the live service, slow lines and crashes."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Route, expect

from file_service.config import Settings
from tests.conftest import MakeService
from tests.e2e.conftest import MakePayload, ask_once, check_link
from tests.e2e.upload_page import MB, UploadPage
from tests.processes import ServiceProcess

pytestmark = pytest.mark.chromium


@pytest.fixture(name="make_service")
def make_variant(make_service: MakeService, settings: Settings) -> MakeService:
    """Start one worker on SQLite, two on PostgreSQL."""
    workers = "1" if settings.database_url.startswith("sqlite") else "2"
    return partial(make_service, "--workers", workers)


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
        check_link(service, link, each)
        await clean.hear(f"{each.path.name} is uploaded. Its link is ready.")
    await expect(clean.page.get_by_text("2 of 2 done")).to_be_visible()
    assert await clean.page.evaluate("Object.keys(localStorage)") == []


async def test_an_empty_file_is_uploaded_too(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("empty.txt", 0)
    await clean.open(service.url)
    await clean.choose(payload.path)
    check_link(service, await clean.find_link("empty.txt"), payload)


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
        check_link(service, await clean.find_link(each.path.name), each)


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


# --- wherever the service is ---


async def test_the_page_works_at_an_address_that_is_not_the_public_one(
    make_service: MakeService, clean: UploadPage, make_payload: MakePayload
) -> None:
    """As when an operator tries it past the proxy: the policy allows no other address."""
    service = make_service("--public-url", "https://files.example.org/sub")
    payload = make_payload("a.bin", 4 * MB)
    await clean.open(service.url, speed=MB)
    await clean.choose(payload.path)
    await clean.see_some_sent("a.bin", 0.2)
    await clean.button("Pause a.bin").click()
    await clean.throttle(-1)
    await clean.button("Resume a.bin").click()
    link = await clean.find_link("a.bin")
    assert link.startswith(f"{service.url}/files/")
    check_link(service, link, payload)


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
    check_link(service, await clean.find_link("film.mp4"), payload)
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


@asynccontextmanager
async def slow_creation(clean: UploadPage) -> AsyncIterator[asyncio.Event]:
    """Have the answer to a creation held back, which the service has done, until the block ends.

    The event is set when it is held.
    """
    held, is_over = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        if route.request.method != "POST":
            await route.continue_()
            return
        answer = await route.fetch()
        held.set()
        await is_over.wait()
        await route.fulfill(response=answer)

    await clean.page.route("**/uploads/", hold)
    try:
        yield held
    finally:
        is_over.set()


async def test_what_is_cancelled_while_it_is_created_is_gone_at_the_service(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", MB)
    await clean.open(service.url)
    async with (
        clean.page.expect_response(lambda answer: answer.request.method == "DELETE") as end,
        slow_creation(clean) as held,
    ):
        await clean.choose(payload.path)
        await held.wait()
        await clean.button("Cancel film.mp4").click()
        await expect(clean.row("film.mp4")).to_have_count(0)
    answer = await end.value
    assert answer.status == 204
    assert ask_once(service, "HEAD", urlsplit(answer.url).path).status in {404, 410}
    assert clean.find_offsets() == []


async def test_what_is_paused_while_it_is_created_is_created_once(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", MB)
    await clean.open(service.url)
    async with slow_creation(clean) as held:
        await clean.choose(payload.path)
        await held.wait()
        await clean.button("Pause film.mp4").click()
        await clean.see("film.mp4", "paused")
        await clean.button("Resume film.mp4").click()
        await clean.see("film.mp4", "starting")
    check_link(service, await clean.find_link("film.mp4"), payload)
    assert [each.method for each in clean.requests].count("POST") == 1


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
    await expect(clean.row("film.mp4")).to_contain_text("choose the file again to go on")
    await clean.throttle(-1)
    async with clean.page.expect_file_chooser() as waiting:
        await clean.button("Choose again film.mp4").click()
    await (await waiting.value).set_files(payload.path)
    check_link(service, await clean.find_link("film.mp4"), payload)
    assert clean.find_offsets()[1] > MB
    assert len(clean.find_uploads()) == 1


async def test_two_files_go_on_after_a_reload(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    payloads = [make_payload(name, 6 * MB) for name in ("film.mp4", "отчёт.pdf")]
    await clean.open(service.url, speed=MB)
    await clean.choose(*(each.path for each in payloads))
    for each in payloads:
        await clean.see_some_sent(each.path.name, 0.3)
    await clean.page.reload()
    for each in payloads:
        await clean.see(each.path.name, "unfinished")
    await clean.throttle(-1)
    for each in payloads:
        async with clean.page.expect_file_chooser() as waiting:
            await clean.button(f"Choose again {each.path.name}").click()
        await (await waiting.value).set_files(each.path)
    for each in payloads:
        check_link(service, await clean.find_link(each.path.name), each)
    assert clean.find_offsets()[:2] == [0, 0]
    assert min(clean.find_offsets()[2:]) > MB
    assert len(clean.find_uploads()) == 2


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
    check_link(service, await clean.find_link("film.mp4"), payload)


async def test_an_upload_goes_on_by_itself_after_the_service_was_killed(
    make_service: MakeService, there: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 8 * MB)
    service = make_service()
    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.5)
    service.kill_all()
    await there.see("film.mp4", "waiting")
    await there.hear("film.mp4 waits.")
    await there.throttle(-1)
    again = make_service("--port", str(urlsplit(service.url).port))
    check_link(again, await there.find_link("film.mp4"), payload)
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
    check_link(service, await there.find_link("film.mp4"), payload)
    assert there.find_offsets()[-1] > MB


async def test_a_connection_that_has_gone_silent_is_given_up_for_a_new_one(
    service: ServiceProcess, clean: UploadPage, make_payload: MakePayload
) -> None:
    """As when a phone changes networks: nothing fails, and nothing arrives."""
    payload = make_payload("film.mp4", 48 * MB)
    await clean.open(service.url, speed=6 * MB)
    await clean.choose(payload.path)
    await clean.see_some_sent("film.mp4", 0.2)
    service.signal_all(signal.SIGSTOP)
    # The page's minute passes in two seconds.
    faster = """{ const now = performance.now.bind(performance), start = now();
        performance.now = () => start + (now() - start) * 30; }"""
    await clean.page.evaluate(faster)
    try:
        await clean.hear("film.mp4 waits.")
    finally:
        service.signal_all(signal.SIGCONT)
    await clean.throttle(-1)
    check_link(service, await clean.find_link("film.mp4"), payload)
    assert clean.find_offsets()[1] > MB
    assert len(clean.find_uploads()) == 1


async def test_an_upload_that_expired_meanwhile_begins_anew_and_says_so(
    service: ServiceProcess, there: UploadPage, make_payload: MakePayload
) -> None:
    payload = make_payload("film.mp4", 6 * MB)
    await there.open(service.url, speed=MB)
    await there.choose(payload.path)
    await there.see_some_sent("film.mp4", 0.2)
    await there.button("Pause film.mp4").click()
    await there.see("film.mp4", "paused")
    script = "path => fetch(path, {method: 'DELETE', headers: {'Tus-Resumable': '1.0.0'}})"
    await there.page.evaluate(script, there.find_uploads()[0])
    await there.button("Resume film.mp4").click()
    await expect(there.row("film.mp4")).to_contain_text("it began from the start")
    await there.throttle(-1)
    check_link(service, await there.find_link("film.mp4"), payload)
    assert len(there.find_uploads()) == 2
