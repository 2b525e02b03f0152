"""tus 1.0 at /uploads/: what its clients rely on, and what bad input gets."""

import base64
import hashlib
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import ClientResponse

from file_service.catalogue.uploads import UploadRows
from tests.conftest import Client, Leftovers

Serve = Callable[..., Awaitable[Client]]

BYTES = {"Content-Type": "application/offset+octet-stream"}
TUS = {"Tus-Resumable": "1.0.0"}
UNKNOWN = "0c5b4f0e-7b8e-4a55-9d6c-3f1d2a6b7c8d"


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def create(client: Client, length: int | None = 10, **headers: str) -> str:
    """Create an upload; return its address."""
    sized = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post("/uploads/", headers=TUS | sized | named) as response:
        assert response.status == 201, await response.text()
        assert response.headers["Tus-Resumable"] == "1.0.0"
        return response.headers["Location"]


async def patch(
    client: Client, url: str, offset: int, body: bytes, **headers: str
) -> ClientResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    told = TUS | BYTES | {"Upload-Offset": str(offset)} | named
    async with client.patch(url, data=body, headers=told) as response:
        await response.read()
        return response


async def head(client: Client, url: str) -> ClientResponse:
    async with client.head(url, headers=TUS) as response:
        return response


async def offset_of(client: Client, url: str) -> int:
    response = await head(client, url)
    assert response.status == 200
    return int(response.headers["Upload-Offset"])


def file_of(url: str) -> str:
    return url.replace("/uploads/", "/files/")


# ── the way it is meant to go ──


async def test_options_tell_what_is_spoken(client: Client, serve: Serve) -> None:
    for path in ("/uploads/", "/uploads", "/files/", f"/uploads/{uuid4()}"):
        async with client.options(path) as response:
            assert response.status == 200
            assert response.headers["Tus-Version"] == "1.0.0"
            assert response.headers["Tus-Extension"] == (
                "creation,creation-with-upload,creation-defer-length,expiration,checksum,"
                "termination,concatenation"
            )
            algorithms = response.headers["Tus-Checksum-Algorithm"].split(",")
            assert algorithms == ["sha1", "md5", "sha256", "sha512", "crc32"]
            assert "Tus-Max-Size" not in response.headers
    async with (await serve(max_size=1000)).options("/uploads/") as response:
        assert response.headers["Tus-Max-Size"] == "1000"
        assert "max-size=1000" in response.headers["Upload-Limit"]


async def test_an_upload_in_pieces_becomes_a_file(client: Client, leftovers: Leftovers) -> None:
    body = bytes(range(256)) * 5000
    named = f"filename {encode('Отчёт.pdf')},filetype {encode('application/pdf')}"
    sent = f"{named},empty ,x {encode('y')}"
    url = await create(client, len(body), Upload_Metadata=sent)
    for start in range(0, len(body), 500_000):
        response = await patch(client, url, start, body[start : start + 500_000])
        assert response.status == 204
        assert response.headers["Upload-Offset"] == str(min(start + 500_000, len(body)))
    found = await head(client, url)
    assert found.headers["Upload-Metadata"] == sent
    assert found.headers["Upload-Length"] == found.headers["Upload-Offset"] == str(len(body))
    assert found.headers["Cache-Control"] == "no-store"
    for address in (url, f"{url}/", file_of(url)):
        async with client.get(address) as response:
            assert await response.read() == body
            assert response.headers["ETag"] == f'"{hashlib.sha256(body).hexdigest()}"'
    async with client.get(f"{file_of(url)}/info") as response:
        info = await response.json()
    assert (info["name"], info["media_type"], info["size"]) == (
        "Отчёт.pdf",
        "application/pdf",
        len(body),
    )
    assert info["metadata"]["x"] == "y"
    assert [Path(name).name for name in leftovers.files()] == [url.rpartition("/")[2]]


async def test_an_unfinished_upload_is_no_file(client: Client) -> None:
    url = await create(client)
    await patch(client, url, 0, b"01234")
    for address in (url, file_of(url), f"{file_of(url)}/info"):
        async with client.get(address) as response:
            assert response.status == 404, address
    async with client.delete(file_of(url)) as response:
        assert response.status == 404
    assert await offset_of(client, url) == 5


async def test_an_upload_without_bytes_is_a_file_at_once(client: Client) -> None:
    url = await create(client, 0)
    async with client.get(file_of(url)) as response:
        assert (response.status, await response.read()) == (200, b"")
    assert (await patch(client, url, 0, b"")).status == 204


async def test_bytes_may_come_with_the_creation(client: Client) -> None:
    headers = TUS | BYTES | {"Upload-Length": "10"}
    async with client.post("/uploads/", data=b"01234", headers=headers) as response:
        assert (response.status, response.headers["Upload-Offset"]) == (201, "5")
        url = response.headers["Location"]
    assert (await patch(client, url, 5, b"56789")).status == 204
    async with client.get(file_of(url)) as response:
        assert await response.read() == b"0123456789"


async def test_the_length_may_come_later(client: Client) -> None:
    url = await create(client, None)
    found = await head(client, url)
    assert found.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in found.headers
    assert (await patch(client, url, 0, b"012")).status == 204
    assert (await patch(client, url, 3, b"", Upload_Length="6")).status == 204
    assert (await head(client, url)).headers["Upload-Length"] == "6"
    assert (await patch(client, url, 3, b"345", Upload_Length="7")).status == 400
    assert (await patch(client, url, 3, b"345", Upload_Length="6")).status == 204
    async with client.get(file_of(url)) as response:
        assert await response.read() == b"012345"


@pytest.mark.parametrize("method", ["PATCH", "HEAD", "DELETE"])
async def test_methods_can_be_sent_as_post(client: Client, method: str) -> None:
    url = await create(client)
    headers = TUS | BYTES | {"Upload-Offset": "0", "X-HTTP-Method-Override": method}
    async with client.post(url, data=b"012", headers=headers) as response:
        expected = {"PATCH": (204, "3"), "HEAD": (200, "0"), "DELETE": (204, None)}
        assert (response.status, response.headers.get("Upload-Offset")) == expected[method]
    async with client.post(url, headers=TUS) as response:
        assert response.status == 400


async def test_an_upload_that_is_cancelled_is_gone(client: Client, leftovers: Leftovers) -> None:
    url = await create(client)
    await patch(client, url, 0, b"01234")
    async with client.delete(url, headers=TUS) as response:
        assert response.status == 204
    for response in (await head(client, url), await patch(client, url, 5, b"56789")):
        assert response.status == 404
        assert "Upload-Offset" not in response.headers
        assert response.headers["Tus-Resumable"] == "1.0.0"
    assert leftovers.files() == []


async def test_a_finished_upload_is_deleted_with_its_file_and_its_file_with_it(
    client: Client, leftovers: Leftovers
) -> None:
    for by_upload in (True, False):
        url = await create(client, 3)
        await patch(client, url, 0, b"abc")
        address = url if by_upload else file_of(url)
        async with client.delete(address, headers=TUS if by_upload else {}) as response:
            assert response.status == 204
        assert (await head(client, url)).status == 404
        async with client.get(file_of(url)) as response:
            assert response.status == 404
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


async def test_a_file_of_another_way_is_an_upload_that_is_finished(client: Client) -> None:
    async with client.post("/files/", data=b"abc") as response:
        file_id = await response.text()
    found = await head(client, f"/uploads/{file_id}")
    assert (found.status, found.headers["Upload-Offset"]) == (200, "3")


@pytest.mark.parametrize(
    ("metadata", "name", "media_type"),
    [
        ({"filename": "a.txt", "filetype": "text/html\r\nX: y"}, "a.txt", "text/plain"),
        ({"filename": "a.txt", "filetype": "nonsense"}, "a.txt", "text/plain"),
        ({"filename": "a.txt", "filetype": "тип/x"}, "a.txt", "text/plain"),
        ({"name": "b.png", "type": "image/png"}, "b.png", "image/png"),
        ({"filename": "etc/passwd"}, "passwd", "application/octet-stream"),
        ({"filename": "C:\\x\\y.txt"}, "y.txt", "text/plain"),
        ({"relativePath": "null"}, None, "application/octet-stream"),
    ],
)
async def test_what_metadata_says_is_cleaned_before_it_is_believed(
    client: Client, metadata: dict[str, str], name: str | None, media_type: str
) -> None:
    sent = ",".join(f"{key} {encode(value)}" for key, value in metadata.items())
    url = await create(client, 0, Upload_Metadata=sent)
    assert (await head(client, url)).headers["Upload-Metadata"] == sent
    async with client.get(f"{file_of(url)}/info") as response:
        info = await response.json()
    assert (info["name"], info["media_type"]) == (name or info["id"], media_type)
    async with client.get(file_of(url)) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == media_type


@pytest.mark.parametrize("name", ["a\0b", "..", "a\nb", "x" * 300])
async def test_a_name_that_no_file_may_have_creates_nothing(client: Client, name: str) -> None:
    sent = TUS | {"Upload-Length": "1", "Upload-Metadata": f"filename {encode(name)}"}
    async with client.post("/uploads/", headers=sent) as response:
        assert response.status == 400


# ── expiration ──


@pytest.mark.usefixtures("nothing_kept")
async def test_an_upload_expires_and_activity_puts_it_off(serve: Serve, rows: UploadRows) -> None:
    client = await serve(upload_seconds=100)
    url = await create(client)
    key = url.rpartition("/")[2]
    await rows.expire([key], datetime.now(UTC) + timedelta(seconds=30))
    response = await patch(client, url, 0, b"01234")
    expires = parsedate_to_datetime(response.headers["Upload-Expires"])
    assert expires > datetime.now(UTC) + timedelta(seconds=60)
    await rows.expire([key], datetime.now(UTC))
    for response in (await head(client, url), await patch(client, url, 5, b"56789")):
        assert response.status == 410
        assert "Upload-Offset" not in response.headers
    await patch(client, await create(client, 1), 0, b"x")
    finished = await head(client, url)
    assert "Upload-Expires" not in finished.headers


# ── checksum ──


def checksum(algorithm: str, body: bytes) -> str:
    if algorithm == "crc32":
        digest = zlib.crc32(body).to_bytes(4, "big")
    else:
        digest = hashlib.new(algorithm, body).digest()
    return f"{algorithm} {base64.b64encode(digest).decode()}"


@pytest.mark.parametrize("algorithm", ["sha1", "md5", "sha256", "sha512", "crc32"])
async def test_a_checksum_that_is_met_is_accepted_and_one_that_is_not_changes_nothing(
    client: Client, algorithm: str
) -> None:
    url = await create(client)
    wrong = await patch(client, url, 0, b"01234", Upload_Checksum=checksum(algorithm, b"x"))
    assert (wrong.status, wrong.reason) == (460, "Checksum Mismatch")
    assert await offset_of(client, url) == 0
    right = await patch(client, url, 0, b"01234", Upload_Checksum=checksum(algorithm, b"01234"))
    assert (right.status, right.headers["Upload-Offset"]) == (204, "5")
    wrong = await patch(client, url, 5, b"56789", Upload_Checksum=checksum(algorithm, b"x"))
    assert (wrong.status, await offset_of(client, url)) == (460, 5)
    await patch(client, url, 5, b"56789", Upload_Checksum=checksum(algorithm, b"56789"))
    async with client.get(file_of(url)) as response:
        assert await response.read() == b"0123456789"
        assert response.headers["ETag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'


@pytest.mark.parametrize(
    "value", ["sha3 AAAA", "sha1 ???", "sha1", "", "SHA1 AAAA", "sha1 AAAA AAAA", "sha1  "]
)
async def test_a_checksum_that_cannot_be_verified_is_refused(client: Client, value: str) -> None:
    url = await create(client)
    assert (await patch(client, url, 0, b"01234", Upload_Checksum=value)).status == 400
    assert await offset_of(client, url) == 0


# ── concatenation ──


async def make_part(client: Client, body: bytes) -> str:
    url = await create(client, len(body), Upload_Concat="partial")
    assert (await patch(client, url, 0, body)).status == 204
    return url


async def test_parts_become_one_file(client: Client, leftovers: Leftovers) -> None:
    parts = [await make_part(client, body) for body in (b"abc" * 100_000, b"", b"xyz")]
    async with client.get(parts[0]) as response:
        assert response.status == 404  # a part is no file
    absolute = f"http://elsewhere.example{parts[2]}"
    concat = f"final;{parts[0]} {parts[1]} {absolute} {parts[2]}"
    named = {"Upload-Concat": concat, "Upload-Metadata": f"filename {encode('whole.bin')}"}
    async with client.post("/uploads/", headers=TUS | named) as response:
        assert response.status == 201, await response.text()
        url = response.headers["Location"]
    expected = b"abc" * 100_000 + b"xyzxyz"
    found = await head(client, url)
    assert found.headers["Upload-Concat"] == concat
    assert found.headers["Upload-Offset"] == found.headers["Upload-Length"] == str(len(expected))
    assert (await head(client, parts[0])).headers["Upload-Concat"] == "partial"
    async with client.get(file_of(url)) as response:
        assert await response.read() == expected
        assert "whole.bin" in response.headers["Content-Disposition"]
        assert response.headers["ETag"] == f'"{hashlib.sha256(expected).hexdigest()}"'
    assert (await patch(client, url, len(expected), b"")).status == 403
    for part in parts:
        async with client.delete(part, headers=TUS) as response:
            assert response.status == 204
    assert [Path(name).name for name in leftovers.files()] == [url.rpartition("/")[2]]


async def put_together(client: Client, parts: list[str], name: str) -> str:
    words = {"Upload-Concat": f"final;{' '.join(parts)}", "Upload-Metadata": f"filename {name}"}
    async with client.post("/uploads/", headers=TUS | words) as response:
        assert response.status == 201, await response.text()
        assert response.headers["Upload-Offset"] == "6"
        return response.headers["Location"]


async def test_the_same_words_again_mean_the_same_file_as_long_as_it_is_there(
    client: Client, leftovers: Leftovers
) -> None:
    """The answer to the first ones may have been lost."""
    parts = [await make_part(client, body) for body in (b"abc", b"xyz")]
    first, other = encode("whole.bin"), encode("other.bin")
    url = await put_together(client, parts, first)
    assert await put_together(client, parts, first) == url
    others = [
        await put_together(client, parts, other),
        await put_together(client, parts[::-1], first),
    ]
    assert len({url, *others}) == 3
    async with client.delete(f"{file_of(url)}/") as response:
        assert response.status == 204
    assert (again := await put_together(client, parts, first)) not in {url, *others}
    for part in parts:  # not even the parts have to be there
        async with client.delete(part, headers=TUS) as response:
            assert response.status == 204
    assert await put_together(client, parts, first) == again
    names = {Path(name).name for name in leftovers.files()}
    assert names == {each.rpartition("/")[2] for each in (again, *others)}


async def test_only_finished_parts_can_be_put_together(
    client: Client, leftovers: Leftovers
) -> None:
    whole = await make_part(client, b"abc")
    half = await create(client, 10, Upload_Concat="partial")
    other = await create(client, 3)
    await patch(client, other, 0, b"abc")
    before = await leftovers.rows()
    for concat, status in (
        (f"final;{whole} {half}", 400),
        (f"final;{whole} {other}", 400),
        (f"final;/uploads/{uuid4()}", 404),
        ("final;/uploads/nonsense", 404),
        ("final;/elsewhere/1", 404),
        ("final;", 400),
        ("both", 400),
    ):
        async with client.post("/uploads/", headers=TUS | {"Upload-Concat": concat}) as response:
            assert response.status == status, concat
    headers = TUS | {"Upload-Concat": f"final;{whole}", "Upload-Length": "3"}
    async with client.post("/uploads/", headers=headers) as response:
        assert response.status == 400
    assert await leftovers.rows() == before


# ── bad input ──


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Tus-Resumable": ""}, b"", 412),
        ({"Tus-Resumable": "0.2.2"}, b"", 412),
        ({"Upload-Length": ""}, b"", 400),
        ({"Upload-Length": "-1"}, b"", 400),
        ({"Upload-Length": "+1"}, b"", 400),
        ({"Upload-Length": "1_0"}, b"", 400),
        ({"Upload-Length": "٣"}, b"", 400),
        ({"Upload-Length": "9" * 30}, b"", 400),
        ({"Upload-Defer-Length": "1"}, b"", 400),  # and a length
        ({"Upload-Length": None}, b"", 400),
        ({"Upload-Length": None, "Upload-Defer-Length": "2"}, b"", 400),
        ({"Upload-Length": "1001"}, b"", 413),
        ({"Upload-Metadata": "filename ???"}, b"", 400),
        ({"Upload-Metadata": "a YQ==,a YQ=="}, b"", 400),
        ({"Upload-Metadata": "a YQ==,,b YQ=="}, b"", 400),
        ({"Upload-Metadata": "a YQ==,"}, b"", 400),
        ({"Upload-Metadata": f"filename {base64.b64encode(b'a/../b').decode()},é YQ=="}, b"", 400),
        ({"Upload-Metadata": "filename " + "A" * 65536}, b"", 431),
        ({"Content-Type": "text/plain"}, b"x", 415),
        ({"Content-Encoding": "gzip"}, b"x", 415),
        (BYTES, b"x" * 11, 413),
    ],
)
async def test_a_creation_that_is_wrong_creates_nothing(
    serve: Serve, leftovers: Leftovers, headers: dict[str, str | None], body: bytes, status: int
) -> None:
    client = await serve(max_size=1000)
    given = {name: value for name, value in headers.items() if value is not None}
    base = {"Upload-Length": "10"} if "Upload-Length" not in headers else {}
    async with client.post("/uploads/", data=body, headers=TUS | base | given) as response:
        assert response.status == status, await response.text()
        if status == 412:
            assert response.headers["Tus-Version"] == "1.0.0"
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)
    assert await leftovers.execute("SELECT count(*) FROM upload") == 0


async def test_a_creation_with_bytes_of_another_checksum_can_be_gone_on_with(
    client: Client,
) -> None:
    headers = TUS | BYTES | {"Upload-Length": "3", "Upload-Checksum": "sha1 AAAA"}
    async with client.post("/uploads/", data=b"abc", headers=headers) as response:
        assert response.status == 460
        url = response.headers["Location"]
    assert await offset_of(client, url) == 0


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Tus-Resumable": None}, b"x", 412),
        ({"Tus-Resumable": "2.0.0"}, b"x", 412),
        ({"Content-Type": "application/octet-stream"}, b"x", 415),
        ({"Upload-Offset": None}, b"x", 400),
        ({"Upload-Offset": "-1"}, b"x", 400),
        ({"Upload-Offset": "five"}, b"x", 400),
        ({"Upload-Offset": "4"}, b"x", 409),
        ({"Upload-Offset": "6"}, b"x", 409),
        ({"Upload-Length": "11"}, b"x", 400),
        ({}, b"x" * 6, 413),
        ({"Content-Encoding": "gzip"}, b"x", 415),
        ({"X-HTTP-Method-Override": "PATCH"}, b"", 204),
    ],
)
async def test_bytes_that_are_wrong_change_nothing(
    client: Client, headers: dict[str, str | None], body: bytes, status: int
) -> None:
    url = await create(client)
    await patch(client, url, 0, b"01234")
    told = TUS | BYTES | {"Upload-Offset": "5"} | headers
    given = {name: value for name, value in told.items() if value is not None}
    async with client.patch(url, data=body, headers=given) as response:
        assert response.status == status, await response.text()
        assert response.headers["Tus-Resumable"] == "1.0.0"
        if status == 409:
            assert response.headers["Upload-Offset"] == "5"
    assert await offset_of(client, url) == 5


@pytest.mark.parametrize("key", ["nonsense", "x..", UNKNOWN.upper(), UNKNOWN])
async def test_an_unknown_upload_is_a_404(client: Client, key: str) -> None:
    for method in ("HEAD", "PATCH", "DELETE", "GET"):
        headers = TUS | BYTES | {"Upload-Offset": "0"}
        async with client.request(method, f"/uploads/{key}", headers=headers) as response:
            assert response.status == 404, method
            assert "Upload-Offset" not in response.headers
            assert response.headers["Tus-Resumable"] == "1.0.0"


async def test_a_finished_upload_takes_nothing_more(client: Client) -> None:
    url = await create(client, 3)
    await patch(client, url, 0, b"abc")
    for offset, body, status in ((3, b"", 204), (3, b"x", 413), (0, b"abc", 409)):
        assert (await patch(client, url, offset, body)).status == status
    async with client.get(file_of(url)) as response:
        assert await response.read() == b"abc"


async def test_what_others_have_declared_is_theirs(client: Client, leftovers: Leftovers) -> None:
    huge = str(10**17)
    async with client.post("/uploads/", headers=TUS | {"Upload-Length": huge}) as response:
        assert response.status == 507
    assert await leftovers.rows() == 0
