import hashlib
import re

import pytest

from file_service.web.headers import format_digests
from tests.conftest import Client, Leftovers


async def put(client: Client, body: bytes = b"content", name: str = "a.txt") -> str:
    async with client.put(f"/files/{name}", data=body) as response:
        return await response.text()


@pytest.mark.parametrize("slash", ["", "/"])
async def test_info_is_the_file_as_json(client: Client, slash: str) -> None:
    file_id = await put(client)
    async with client.get(f"/files/{file_id}/info{slash}") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        info = await response.json()
    created_at = info.pop("created_at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created_at)
    assert info == {
        "id": file_id,
        "name": "a.txt",
        "size": 7,
        "media_type": "text/plain",
        "digest": format_digests({"sha-256": hashlib.sha256(b"content").hexdigest()}),
        "metadata": {},
        "url": f"/files/{file_id}/",
    }


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_deleted_file_is_gone_everywhere(
    client: Client, leftovers: Leftovers, slash: str
) -> None:
    file_id = await put(client)
    async with client.delete(f"/files/{file_id}{slash}") as response:
        assert (response.status, await response.read()) == (204, b"")
    for method, path in [("GET", ""), ("HEAD", ""), ("GET", "/info"), ("DELETE", "")]:
        async with client.request(method, f"/files/{file_id}{path}") as response:
            assert response.status == 404
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


async def test_deleting_one_file_leaves_its_twin(client: Client) -> None:
    first, second = await put(client), await put(client)
    async with client.delete(f"/files/{first}/"):
        pass
    async with client.get(f"/files/{second}/") as response:
        assert await response.read() == b"content"


async def test_a_download_in_progress_outlives_the_deletion(client: Client) -> None:
    body = b"0123456789" * 100_000
    file_id = await put(client, body)
    async with client.get(f"/files/{file_id}/") as response:
        start = await response.content.read(1000)
        async with client.delete(f"/files/{file_id}/") as deletion:
            assert deletion.status == 204
        assert start + await response.read() == body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": "{etag}"}, 204),
        ({"If-Match": "*"}, 204),
        ({"If-None-Match": "{etag}"}, 412),
        ({"If-None-Match": '"x"'}, 204),
        ({"If-Unmodified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}, 412),
        ({"If-Unmodified-Since": "Fri, 31 Dec 9999 23:59:59 GMT"}, 204),
        ({"If-Unmodified-Since": "Fri, 31 Dec 9999 23:59:59 -1200"}, 204),  # no HTTP-date
    ],
)
async def test_a_deletion_is_done_under_its_conditions_alone(
    client: Client, headers: dict[str, str], status: int
) -> None:
    file_id = await put(client)
    etag = f'"{hashlib.sha256(b"content").hexdigest()}"'
    headers = {name: value.replace("{etag}", etag) for name, value in headers.items()}
    async with client.delete(f"/files/{file_id}/", headers=headers) as response:
        assert response.status == status
    async with client.get(f"/files/{file_id}/") as response:
        assert response.status == (404 if status == 204 else 200)


async def test_an_upload_to_the_address_of_a_file_can_be_made_to_depend_on_it(
    client: Client,
) -> None:
    file_id = await put(client)
    none = {"If-None-Match": "*"}
    for name, headers, status in (
        (file_id, none, 412),
        ("new.txt", none, 201),
        ("new.txt", {"If-Match": "*"}, 412),
    ):
        async with client.put(f"/files/{name}", data=b"x", headers=headers) as response:
            assert response.status == status, (name, headers)
