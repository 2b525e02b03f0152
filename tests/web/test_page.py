import hashlib
import re
from email.utils import parsedate_to_datetime

import pytest

from file_service.web.page import FOLDER, MEDIA_TYPES
from tests.conftest import Client

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ADDRESSES = {"/": "index.html"} | {f"/static/{name}": name for name in MEDIA_TYPES}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "form-action": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
VENDORED = {"tus.min.js", "tus.LICENSE.txt"}
OURS = sorted(set(MEDIA_TYPES) - VENDORED)


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@sqlite_only
@pytest.mark.parametrize("address", ADDRESSES)
async def test_every_file_of_the_page_is_sent_under_the_policy(
    client: Client, address: str
) -> None:
    name = ADDRESSES[address]
    async with client.get(address) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == MEDIA_TYPES[name]
        assert await response.read() == (FOLDER / name).read_bytes()
        told = response.headers["Content-Security-Policy"]
        assert dict(each.split(" ", 1) for each in told.split("; ")) == POLICY
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cache-Control"] == "no-cache"


@sqlite_only
@pytest.mark.parametrize("address", ["/", "/static/upload.js", "/static/upload.js/"])
async def test_head_has_the_headers_alone(client: Client, address: str) -> None:
    async with client.get(address) as whole, client.head(address) as head:
        assert head.status == 200
        kept = ("Content-Type", "Content-Length", "ETag", "Content-Security-Policy")
        assert [head.headers[name] for name in kept] == [whole.headers[name] for name in kept]
        assert await head.read() == b""


@sqlite_only
@pytest.mark.parametrize("address", ["/", "/static/upload.css"])
async def test_what_a_browser_has_is_not_sent_again(client: Client, address: str) -> None:
    async with client.get(address) as response:
        etag, modified_at = response.headers["ETag"], response.headers["Last-Modified"]
    assert parsedate_to_datetime(modified_at)
    for condition in (
        {"If-None-Match": etag},
        {"If-None-Match": f'"other", W/{etag}'},
        {"If-Modified-Since": modified_at},
    ):
        async with client.get(address, headers=condition) as response:
            assert (response.status, await response.read()) == (304, b"")
            assert (response.headers["ETag"], response.headers["Cache-Control"]) == (
                etag,
                "no-cache",
            )
    async with client.get(address, headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200
    async with client.get(address, headers={"If-Match": '"other"'}) as response:
        assert response.status == 412


@sqlite_only
@pytest.mark.parametrize(
    "name",
    [
        "tus.ORIGIN.md",
        "page.py",
        "",
        "..%2fpage.py",
        "upload.js%00",
        "UPLOAD.JS",
        "%2fetc",
    ],
)
async def test_no_other_name_is_served(client: Client, name: str) -> None:
    async with client.get(f"/static/{name}") as response:
        assert response.status == 404
        assert response.content_type == "application/problem+json"


@sqlite_only
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("address", ["/", "/static/upload.js"])
async def test_the_page_is_only_read(client: Client, method: str, address: str) -> None:
    async with client.request(method, address) as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


@sqlite_only
async def test_an_uploaded_file_cannot_take_a_place_of_the_page(client: Client) -> None:
    for name in ("upload.js", "index.html", "%2fstatic%2fupload.js"):
        async with client.put(f"/files/{name}", data=b"evil") as response:
            assert response.status == 201
            assert response.headers["Location"].startswith("/files/")
    async with client.get("/static/upload.js") as response:
        assert await response.text() == read("upload.js")


def test_what_lies_in_the_folder_is_what_is_served() -> None:
    lying = {path.name for path in FOLDER.iterdir()}
    assert lying == {*MEDIA_TYPES, "tus.ORIGIN.md"}


def test_every_address_in_the_page_is_relative() -> None:
    """So that the page works below any path of a proxy."""
    found = re.findall(r'(?:href|src)="([^"]*)"', read("index.html"))
    assert found
    outside = [each for each in found if not each.startswith("#")]
    assert {each.removeprefix("static/") for each in outside} <= set(MEDIA_TYPES)
    for name in OURS:
        for each in re.findall(r'from "([^"]*)"', read(name)):
            assert each.removeprefix("./") in MEDIA_TYPES


def test_nothing_in_the_page_asks_for_an_exception_to_the_policy() -> None:
    page = read("index.html")
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:|<script>", page) == []
    for name in OURS:
        assert (
            re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|new Function", read(name))
            == []
        )
        addresses = set(re.findall(r"\bhttps?://[^\"'\s]*", read(name)))
        assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_tus_js_client_is_the_one_of_its_package() -> None:
    digest = hashlib.sha256((FOLDER / "tus.min.js").read_bytes()).hexdigest()
    assert f"`{digest}`" in read("tus.ORIGIN.md")
    assert "`tus-js-client`" in read("tus.ORIGIN.md")
    assert "The MIT License" in read("tus.LICENSE.txt")


@pytest.mark.parametrize("name", OURS)
def test_the_house_rule_on_long_files_holds_for_the_page_too(name: str) -> None:
    assert len(read(name).splitlines()) <= 450
