import hashlib
import os
from typing import Any

import pytest

from file_service.web.headers import format_digests
from tests.conftest import Client

BODY = os.urandom(100_000)
ETAG = f'"{hashlib.sha256(BODY).hexdigest()}"'


@pytest.fixture
async def path(client: Client) -> str:
    async with client.put("/files/report.pdf", data=BODY) as response:
        return f"/files/{await response.text()}/"


async def get(client: Client, path: str, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.request(method, path, headers=named) as response:
        return response, await response.read()


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=10-19", slice(10, 20)),
        ("bytes=99990-", slice(99_990, None)),
        ("bytes=-10", slice(-10, None)),
        ("bytes=0-9999999", slice(None)),
        ("bytes=0-5,3-9", slice(0, 10)),
    ],
)
async def test_one_range_is_sent_as_206_with_the_digest_of_the_whole(
    client: Client, path: str, value: str, part: slice
) -> None:
    response, body = await get(client, path, Range=value)
    assert (response.status, body) == (206, BODY[part])
    start, stop, _ = part.indices(len(BODY))
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"
    assert response.headers["Content-Length"] == str(stop - start)
    assert response.headers["ETag"] == ETAG
    digest = hashlib.sha256(BODY).hexdigest()
    assert response.headers["Repr-Digest"] == format_digests({"sha-256": digest})


async def test_several_ranges_are_sent_as_multipart(client: Client, path: str) -> None:
    response, body = await get(client, path, Range="bytes=0-9,50-59,-10")
    assert response.status == 206
    assert response.headers["Content-Length"] == str(len(body))
    assert "Content-Range" not in response.headers
    boundary = response.headers["Content-Type"].partition("boundary=")[2]
    spans = {"0-9": BODY[:10], "50-59": BODY[50:60], "99990-99999": BODY[-10:]}
    expected = b"".join(
        f"\r\n--{boundary}\r\nContent-Type: application/pdf\r\n"
        f"Content-Range: bytes {span}/100000\r\n\r\n".encode()
        + content
        for span, content in spans.items()
    )
    assert body == expected + f"\r\n--{boundary}--\r\n".encode()


async def test_a_range_outside_of_the_file_is_a_416_that_tells_its_size(
    client: Client, path: str
) -> None:
    response, _ = await get(client, path, Range="bytes=100000-")
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */100000"
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("value", ["items=0-1", "bytes=5-2", "bytes=abc", "bytes=0-1,x"])
async def test_a_range_that_is_none_is_ignored(client: Client, path: str, value: str) -> None:
    response, body = await get(client, path, Range=value)
    assert (response.status, body) == (200, BODY)


async def test_head_ignores_ranges(client: Client, path: str) -> None:
    response, body = await get(client, path, "HEAD", Range="bytes=0-9")
    assert (response.status, body) == (200, b"")
    assert response.headers["Content-Length"] == "100000"
    assert response.headers["Accept-Ranges"] == "bytes"


async def test_a_stale_if_range_gets_the_whole_file(client: Client, path: str) -> None:
    """Else a resumed download is glued onto other bytes."""
    response, body = await get(client, path, Range="bytes=0-9", If_Range='"other"')
    assert (response.status, body) == (200, BODY)
    response, body = await get(client, path, Range="bytes=0-9", If_Range=ETAG)
    assert (response.status, body) == (206, BODY[:10])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_the_caller_has_is_not_sent_again(
    client: Client, path: str, method: str
) -> None:
    response, body = await get(client, path, method, If_None_Match=ETAG)
    assert (response.status, body) == (304, b"")
    assert response.headers["ETag"] == ETAG
    assert "immutable" in response.headers["Cache-Control"]
    assert "Content-Type" not in response.headers
    assert "Repr-Digest" not in response.headers


async def test_a_304_comes_before_a_206(client: Client, path: str) -> None:
    response, _ = await get(client, path, If_None_Match=ETAG, Range="bytes=0-9")
    assert response.status == 304


async def test_a_failed_precondition_is_a_412(client: Client, path: str) -> None:
    response, _ = await get(client, path, If_Match='"other"')
    assert response.status == 412
    assert response.content_type == "application/problem+json"


async def test_a_kept_connection_stays_in_step_over_all_of_them(client: Client, path: str) -> None:
    for headers in (
        {"Range": "bytes=0-9"},
        {"Range": "bytes=0-1,5-6"},
        {"Range": "bytes=100000-"},
        {"If_None_Match": ETAG},
        {"If_Match": '"x"'},
        {},
    ):
        response, body = await get(client, path, **headers)
        assert response.headers.get("Connection") != "close"
        if response.status == 200:
            assert body == BODY


SHOWN = ["image/png", "text/plain", "text/plain; charset=utf-8", "VIDEO/MP4", "audio/mpeg"]
SAVED = [
    "text/html", "application/xhtml+xml", "image/svg+xml", "image/svg+xml;x=y", "text/xml",
    "application/xml", "application/pdf", "text/javascript", "application/x-shockwave-flash",
    "multipart/related", "message/rfc822", "text/css", "TEXT/HTML; charset=utf-7", "image/svg",
]  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "disposition"),
    [*((each, "inline") for each in SHOWN), *((each, "attachment") for each in SAVED)],
)
async def test_only_what_cannot_run_script_is_shown(
    client: Client, media_type: str, disposition: str
) -> None:
    headers = {"Content-Type": media_type}
    async with client.post("/files/", data=b"x", headers=headers) as response:
        path = f"/files/{await response.text()}/"
    for query, expected in (
        ("", "attachment"),
        ("?disposition=inline", disposition),
        ("?disposition=attachment", "attachment"),
        ("?disposition=Inline;x", "attachment"),
    ):
        response, _ = await get(client, path + query)
        assert response.headers["Content-Disposition"].partition(";")[0] == expected
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response.headers["Content-Security-Policy"]
