"""Resumable uploads: what is said twice, too late, or of more than comes; and digests of parts."""

import base64
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from unittest.mock import patch as patched

import pytest
from aiohttp import ClientResponse

from file_service.blobs.local import LocalStore
from file_service.catalogue.uploads import UploadRows
from tests.conftest import Client, Leftovers
from tests.web.test_draft import PARTIAL, exchange, make
from tests.web.test_tus import BYTES, TUS, create, file_of, head, offset_of, patch
from tests.wire import Wire

WHOLE = b"0123456789"


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    """A body whose length nobody knows beforehand."""
    for piece in pieces:
        yield piece


def digest_of(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


async def count_uploads(leftovers: Leftovers) -> int:
    return int(await leftovers.execute("SELECT count(*) FROM upload"))


async def content_of(client: Client, url: str) -> bytes | None:
    async with client.get(file_of(url)) as response:
        return await response.read() if response.status == 200 else None


# ── said twice ──


@pytest.mark.parametrize(
    "twice",
    [
        "Tus-Resumable: 1.0.0",
        "Upload-Offset: 0",
        "Upload-Length: 10",
        "Upload-Metadata: a YQ==",
        "Upload-Checksum: sha1 AAAA",
        "Upload-Concat: partial",
        "Upload-Defer-Length: 1",
        "Upload-Complete: ?1",
        "Upload-Draft-Interop-Version: 6",
        "X-HTTP-Method-Override: PATCH",
    ],
)
async def test_what_is_said_twice_is_refused(
    client: Client, leftovers: Leftovers, twice: str
) -> None:
    name, _, value = twice.partition(": ")
    base = [pair for pair in (*TUS.items(), ("Upload-Length", "10")) if pair[0] != name]
    headers = [*base, (name, value), (name, value)]
    async with client.post("/uploads/", headers=headers) as response:
        assert response.status == 400
    assert await count_uploads(leftovers) == 0


@pytest.mark.parametrize(("length", "status"), [("3", 204), ("9", 400)])
async def test_a_finished_upload_has_the_length_it_has(
    client: Client, length: str, status: int
) -> None:
    url = await create(client, 3)
    await patch(client, url, 0, b"abc")
    assert (await patch(client, url, 3, b"", Upload_Length=length)).status == status


# ── said in a way that no client does ──


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Upload-Metadata", "filename ä", 400),
        ("Upload-Metadata", "filename \udcff", 400),
        ("Upload-Concat", "final;http://[/uploads/x", 404),
        ("Upload-Concat", "final;http://a\u2100b/uploads/x", 400),
        ("Upload-Concat", "final;/uploads/\udcff", 400),
    ],
)
async def test_what_is_no_ascii_or_no_url_is_refused(
    client: Client, leftovers: Leftovers, name: str, value: str, status: int
) -> None:
    told = {"Tus-Resumable": "1.0.0", name: value}
    if name != "Upload-Concat":
        told["Upload-Length"] = "10"
    lines = "".join(f"{key}: {text}\r\n" for key, text in told.items())
    wire = await Wire.to(client)
    head = f"POST /uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{lines}\r\n"
    await wire.send(head.encode(errors="surrogateescape"))
    assert (await wire.receive()).status == status
    await wire.close()
    assert await count_uploads(leftovers) == 0


async def test_so_is_a_checksum_that_is_no_ascii(client: Client) -> None:
    url = await create(client)
    assert (await patch(client, url, 0, WHOLE, Upload_Checksum="sha1 ä")).status == 400
    assert await offset_of(client, url) == 0


@pytest.mark.parametrize("interop", ["4", "32768", "999999999999999"])
async def test_a_version_of_the_draft_that_nobody_knows_is_none(
    client: Client, interop: str
) -> None:
    told = {"Upload_Complete": "?0", "Upload_Draft_Interop_Version": interop}
    made = await exchange(client, "POST /files/", WHOLE, **told)
    assert (made.answer.status, made.interim) == (201, [])


async def test_a_boolean_may_have_parameters(client: Client) -> None:
    """RFC 9651 §3.1.2: who does not know them, ignores them."""
    made = await exchange(client, "POST /files/", WHOLE, Upload_Complete='?0;why="later; perhaps"')
    assert made.answer.status == 201
    assert made.answer.headers["upload-complete"] == "?0"
    broken = await exchange(client, "POST /files/", WHOLE, Upload_Complete='?0;a= "x"')
    assert "upload-complete" not in broken.answer.headers


# ── more than comes, or may come ──


async def test_more_than_was_declared_leaves_nothing_of_the_request(client: Client) -> None:
    url = await create(client)
    await patch(client, url, 0, WHOLE[:5])
    headers = TUS | BYTES | {"Upload-Offset": "5"}
    async with client.patch(url, data=in_pieces(b"abc", b"de", b"f"), headers=headers) as response:
        assert response.status == 413
    assert await offset_of(client, url) == 5
    assert await content_of(client, url) is None
    await patch(client, url, 5, WHOLE[5:])
    assert await content_of(client, url) == WHOLE


async def test_a_creation_with_more_than_it_declares_creates_nothing(
    client: Client, leftovers: Leftovers
) -> None:
    headers = TUS | BYTES | {"Upload-Length": "5"}
    data = in_pieces(b"abc", b"def")
    async with client.post("/uploads/", data=data, headers=headers) as response:
        assert response.status == 413
        assert "Location" not in response.headers
    assert (leftovers.files(), await count_uploads(leftovers)) == ([], 0)


@pytest.mark.parametrize(
    ("body", "complete", "length", "status"),
    [
        (b"0123456789", "?0", "5", 413),
        (b"0123456789", "?1", "5", 400),
        (b"0123456789", "?1", "20", 400),
    ],
)
async def test_nor_does_one_of_the_draft_that_contradicts_itself(
    client: Client, leftovers: Leftovers, body: bytes, complete: str, length: str, status: int
) -> None:
    done = await exchange(
        client, "POST /files/", body, Upload_Complete=complete, Upload_Length=length
    )
    assert done.answer.status == status
    assert "location" not in done.answer.headers
    assert (leftovers.files(), await count_uploads(leftovers)) == ([], 0)


async def test_a_last_request_that_is_too_short_changes_nothing(client: Client) -> None:
    url = await make(client, 20)
    told = {"Upload_Complete": "?1", "Content_Type": PARTIAL, "Upload_Offset": "5"}
    assert (await exchange(client, f"PATCH {url}", b"x", **told)).answer.status == 400
    state = (await exchange(client, f"HEAD {url}")).answer
    assert state.headers["upload-offset"] == "5"


async def test_a_length_that_its_own_bytes_exceed_is_not_declared(client: Client) -> None:
    url = await create(client, None)
    assert (await patch(client, url, 0, WHOLE, Upload_Length="9")).status == 413
    assert (await head(client, url)).headers["Upload-Defer-Length"] == "1"
    assert (await patch(client, url, 0, WHOLE, Upload_Length="10")).status == 204
    assert await content_of(client, url) == WHOLE


async def test_nor_is_one_that_is_seen_to_be_exceeded_on_the_way(client: Client) -> None:
    url = await create(client, None)
    headers = TUS | BYTES | {"Upload-Offset": "0", "Upload-Length": "5"}
    async with client.patch(url, data=in_pieces(WHOLE), headers=headers) as response:
        assert response.status == 413
    assert (await head(client, url)).headers["Upload-Defer-Length"] == "1"
    assert (await patch(client, url, 0, WHOLE, Upload_Length="10")).status == 204
    assert await content_of(client, url) == WHOLE


async def test_nor_is_one_that_comes_with_a_wrong_checksum(client: Client) -> None:
    url = await create(client, None)
    told = {"Upload_Length": "12", "Content_Digest": digest_of(b"another")}
    assert (await patch(client, url, 0, WHOLE, **told)).status == 460
    assert (await head(client, url)).headers["Upload-Defer-Length"] == "1"


async def test_a_length_that_has_no_room_is_not_declared(client: Client) -> None:
    """Else it would be reserved, and nobody else had any room."""
    url = await create(client, None)
    assert (await patch(client, url, 0, b"x", Upload_Length=str(10**17))).status == 507
    assert (await head(client, url)).headers["Upload-Defer-Length"] == "1"
    await create(client, 10)


async def test_what_was_promised_is_not_given_to_an_upload_in_one_request(
    client: Client, rows: UploadRows
) -> None:
    await create(client, 1000)
    seen = []
    admit = LocalStore.admit

    async def see(store: LocalStore, length: int | None, *, is_put: bool = False) -> None:
        seen.append(length)
        await admit(store, length, is_put=is_put)

    with patched.object(LocalStore, "admit", see):
        async with client.post("/files/", data=in_pieces(b"abc")) as response:
            assert response.status == 201
        async with client.post("/files/", data=bytes(100_000)) as response:
            assert response.status == 201
    assert seen == [1000, 101_000]
    assert await rows.sum_reserved() == 1000


# ── to what is finished ──


@pytest.mark.parametrize(("body", "status"), [(b"", 204), (b"x", 413)])
async def test_an_answer_that_was_lost_is_given_again(
    client: Client, body: bytes, status: int
) -> None:
    """Whether there are bytes of a body without a length, only its end tells."""
    url = await create(client)
    await patch(client, url, 0, WHOLE)
    headers = TUS | BYTES | {"Upload-Offset": "10"}
    pieces = in_pieces(body) if body else in_pieces()
    async with client.patch(url, data=pieces, headers=headers) as response:
        assert response.status == status
    assert await content_of(client, url) == WHOLE


@pytest.mark.parametrize(("body", "status"), [(b"", 201), (b"x", 413)])
@pytest.mark.parametrize("is_chunked", [True, False])
async def test_so_it_is_in_the_draft_and_the_file_stays(
    client: Client, body: bytes, status: int, is_chunked: bool
) -> None:
    made = await exchange(client, "POST /files/", WHOLE, Upload_Complete="?1")
    url = f"/uploads/{made.answer.headers['location'].split('/')[2]}"
    headers = {"Upload-Offset": "10", "Upload-Complete": "?1", "Content-Type": PARTIAL}
    data = (in_pieces(body) if body else in_pieces()) if is_chunked else body
    async with client.patch(url, data=data, headers=headers) as response:
        assert response.status == status
    assert await content_of(client, url) == WHOLE


async def test_an_upload_whose_row_has_gone_is_spoken_of_as_its_client_speaks(
    client: Client, leftovers: Leftovers
) -> None:
    made = await exchange(client, "POST /files/", WHOLE, Upload_Complete="?1")
    url = f"/uploads/{made.answer.headers['location'].split('/')[2]}"
    await leftovers.execute("DELETE FROM upload")  # as upkeep does a day later
    state = (await exchange(client, f"HEAD {url}")).answer
    assert state.headers["upload-complete"] == "?1"
    assert "upload-limit" in state.headers
    told = {"Upload_Offset": "10", "Upload_Complete": "?1", "Content_Type": PARTIAL}
    assert (await exchange(client, f"PATCH {url}", b"", **told)).answer.status == 201
    assert await offset_of(client, url) == 10


# ── parts ──


async def make_part(client: Client, body: bytes) -> str:
    url = await create(client, len(body), Upload_Concat="partial")
    await patch(client, url, 0, body)
    return url


async def put_together(client: Client, *parts: str, **kwargs: object) -> ClientResponse:
    headers = TUS | {"Upload-Concat": f"final;{' '.join(parts)}"}
    async with client.post("/uploads/", headers=headers, **kwargs) as response:  # type: ignore[arg-type]
        return response


async def test_a_part_is_gone_from_the_second_it_expires(client: Client, rows: UploadRows) -> None:
    parts = [await make_part(client, body) for body in (b"abc", b"def")]
    await rows.expire([parts[1].rpartition("/")[2]], datetime.now(UTC))
    assert (await head(client, parts[1])).status == 410
    assert (await put_together(client, *parts)).status == 410
    assert (await put_together(client, parts[0])).status == 201


async def test_what_is_made_of_parts_has_no_bytes_of_its_own(
    client: Client, leftovers: Leftovers
) -> None:
    part = await make_part(client, b"abc")
    assert (await put_together(client, part, data=in_pieces(b"x"))).status == 400
    assert await leftovers.rows() == 0


# ── digests (RFC 9530) ──


async def test_the_digest_of_the_whole_is_said_at_the_creation(
    client: Client, leftovers: Leftovers
) -> None:
    for told, status in ((WHOLE, 204), (b"another", 400)):
        url = await create(client, Repr_Digest=digest_of(told), Want_Repr_Digest="sha-512=9")
        await patch(client, url, 0, WHOLE[:5])
        assert (await patch(client, url, 5, WHOLE[5:])).status == status
        assert await content_of(client, url) == (WHOLE if status == 204 else None)
    assert await leftovers.rows() == 1
    assert await count_uploads(leftovers) == 1


async def test_a_creation_of_another_whole_tells_no_address(client: Client) -> None:
    told = TUS | BYTES | {"Upload-Length": "10", "Repr-Digest": digest_of(b"another")}
    async with client.post("/uploads/", data=WHOLE, headers=told) as response:
        assert (response.status, response.headers.get("Location")) == (400, None)
    wrong = {"Upload_Complete": "?1", "Repr_Digest": digest_of(b"another")}
    made = await exchange(client, "POST /files/", WHOLE, **wrong)
    assert (made.answer.status, made.answer.headers.get("location")) == (400, None)


async def test_parts_that_make_another_whole_are_refused_every_time(client: Client) -> None:
    part = await make_part(client, WHOLE)
    headers = TUS | {"Upload-Concat": f"final;{part}", "Repr-Digest": digest_of(b"another")}
    for _ in range(2):
        async with client.post("/uploads/", headers=headers) as response:
            assert response.status == 400
    assert (await put_together(client, part)).status == 201


async def test_the_digest_that_is_wanted_is_kept(client: Client) -> None:
    url = await create(client, Want_Repr_Digest="sha-512=9")
    await patch(client, url, 0, WHOLE)
    headers = {"Want-Repr-Digest": "sha-512=9"}
    async with client.head(file_of(url), headers=headers) as response:
        assert "sha-512=" in response.headers["Repr-Digest"]


async def test_the_digest_of_a_part_is_a_checksum(client: Client) -> None:
    url = await create(client)
    wrong = await patch(client, url, 0, WHOLE[:5], Content_Digest=digest_of(b"another"))
    assert (wrong.status, await offset_of(client, url)) == (460, 0)
    right = await patch(client, url, 0, WHOLE[:5], Content_Digest=digest_of(WHOLE[:5]))
    assert (right.status, await offset_of(client, url)) == (204, 5)


async def test_so_it_is_in_the_draft(client: Client) -> None:
    told = {"Upload_Complete": "?0", "Repr_Digest": digest_of(WHOLE)}
    first = await exchange(
        client, "POST /files/", WHOLE[:5], Content_Digest=digest_of(WHOLE[:5]), **told
    )
    url = first.answer.headers["location"]
    last = {"Upload_Complete": "?1", "Content_Type": PARTIAL, "Upload_Offset": "5"}
    for body, status in ((b"another", 400), (WHOLE[5:], 201)):
        done = await exchange(
            client, f"PATCH {url}", WHOLE[5:], Content_Digest=digest_of(body), **last
        )
        assert done.answer.status == status
    assert await content_of(client, url) == WHOLE
