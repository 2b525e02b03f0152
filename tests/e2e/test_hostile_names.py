"""Sixty hostile names that the service took, saved by curl and by Chromium."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.async_api import Error, Page

from tests.e2e.conftest import Curl, connected, sqlite_only
from tests.processes import ServiceProcess
from tests.web.hostile import UNSEEN, make_names

COUNT = 60


@pytest.fixture
def links(service: ServiceProcess) -> list[str]:
    """The links of sixty files whose hostile names were taken."""
    return list(islice(upload(service), COUNT))


def upload(service: ServiceProcess) -> Iterator[str]:
    for name in make_names(10 * COUNT):
        with connected(service) as connection:
            connection.request("PUT", f"/files/{quote(name, safe='')}", b"content")
            response = connection.getresponse()
            if response.status == 201:
                yield service.url + str(response.headers["Location"])


def check(name: str) -> None:
    assert name.strip(". "), ascii(name)
    assert not set(name) & set("/\\"), ascii(name)
    assert len(name.encode()) <= 255, ascii(name)
    assert UNSEEN.search(name) is None, ascii(name)
    assert name.isprintable() or not name.isascii(), ascii(name)


@sqlite_only
def test_curl_saves_every_one_below_its_folder(
    curl: Curl, links: list[str], tmp_path: Path
) -> None:
    for at, link in enumerate(links):
        folder = tmp_path / "saved" / str(at)
        folder.mkdir(parents=True)
        curl("-OJ", "--output-dir", str(folder), link)
        (path,) = folder.iterdir()
        assert path.read_bytes() == b"content"
        check(path.name)
    assert {path.name for path in (tmp_path / "saved").iterdir()} == set(map(str, range(COUNT)))


@sqlite_only
@pytest.mark.chromium
async def test_chromium_suggests_a_sensible_name_for_every_one(
    page: Page, links: list[str]
) -> None:
    for link in links:
        async with page.expect_download() as waiting:
            with pytest.raises(Error, match="Download is starting"):
                await page.goto(link)
        download = await waiting.value
        check(download.suggested_filename)
        assert Path(await download.path()).read_bytes() == b"content"
