"""The IETF draft of resumable uploads, interop versions 5 and 6 and the newest text."""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.conftest import Client, Leftovers
from tests.wire import Answer, Wire

Serve = Callable[..., Awaitable[Client]]

PARTIAL = "application/partial-upload"
REGISTERED = "https://iana.org/assignments/http-problem-types#"
BODY = os.urandom(700_000)


@dataclass(frozen=True)
class Exchange:
    """The interim answers to a request, and the last one."""

    interim: list[dict[str, str]]
    answer: Answer


async def exchange(client: Client, head: str, body: bytes = b"", **headers: str) -> Exchange:
    """Send a request; return every answer to it."""
    wire = await Wire.to(client)
    named = {"Host": "x", "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    await wire.send(f"{head} HTTP/1.1\r\n{lines}\r\n".encode(), body)
    interim = []
    while (found := await _read_head(wire))[0] == 104:
        interim.append(found[1])
    status, told = found
    has_body = not head.startswith("HEAD") and status != 204
    length = int(told.get("content-length", 0)) if has_body else 0
    answer = Answer(status, told, await wire.reader.readexactly(length))
    await wire.close()
    return Exchange(interim, answer)


async def _read_head(wire: Wire) -> tuple[int, dict[str, str]]:
    text = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 10)
    first, *lines = text.decode().split("\r\n")[:-2]
    pairs = (line.partition(": ") for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}


async def check_file(client: Client, path: str, body: bytes, name: str | None = None) -> None:
    async with client.get(path) as response:
        assert await response.read() == body
        assert name is None or name in response.headers["Content-Disposition"]


async def test_options_tell_the_limits(serve: Serve) -> None:
    client = await serve(max_size=1000, upload_seconds=60)
    async with client.options("/files/") as response:
        assert response.headers["Upload-Limit"] == "max-age=60, max-size=1000"


@pytest.mark.parametrize("interop", ["5", "6", "8", "9"])
async def test_an_upload_in_one_request_is_told_where_it_can_be_gone_on_with(
    client: Client, interop: str
) -> None:
    done = await exchange(
        client, "POST /files/?filename=a.bin", BODY, Upload_Complete="?1",
        Upload_Draft_Interop_Version=interop,
    )  # fmt: skip
    first = done.interim[0]
    assert first["upload-draft-interop-version"] == interop
    assert first["location"].startswith("/uploads/")
    assert "max-age" in first["upload-limit"]
    assert all("location" not in later for later in done.interim[1:])
    answer = done.answer
    assert answer.status == 201
    assert answer.headers["upload-complete"] == "?1"
    assert answer.headers["upload-offset"] == str(len(BODY))
    assert answer.headers["location"] == first["location"].replace("uploads", "files") + "/"
    await check_file(client, answer.headers["location"], BODY, "a.bin")


@pytest.mark.parametrize("headers", [{}, {"Upload_Draft_Interop_Version": "3"}])
async def test_nobody_else_is_sent_interim_answers(client: Client, headers: dict[str, str]) -> None:
    done = await exchange(client, "POST /files/", BODY, Upload_Complete="?1", **headers)
    assert (done.interim, done.answer.status) == ([], 201)


@pytest.mark.parametrize(("interop", "status"), [("5", 201), ("6", 201), ("8", 204), ("9", 204)])
async def test_an_upload_in_several_requests(
    client: Client, leftovers: Leftovers, interop: str, status: int
) -> None:
    version = {"Upload_Draft_Interop_Version": interop}
    made = await exchange(
        client, "POST /files/", BODY[:1000], Upload_Complete="?0",
        Upload_Length=str(len(BODY)), Content_Type="image/png", **version,
    )  # fmt: skip
    assert made.answer.status == 201
    assert made.answer.headers["upload-complete"] == "?0"
    assert made.answer.headers["upload-offset"] == "1000"
    url = made.answer.headers["location"]
    assert url == made.interim[0]["location"]
    more = await exchange(
        client, f"PATCH {url}", BODY[1000:5000], Upload_Complete="?0", Upload_Offset="1000",
        Content_Type=PARTIAL, **version,
    )  # fmt: skip
    assert (more.answer.status, more.answer.headers["upload-offset"]) == (status, "5000")
    assert more.answer.headers["upload-complete"] == "?0"
    state = (await exchange(client, f"HEAD {url}", b"", **version)).answer
    assert state.status == 204
    assert state.headers["upload-offset"] == "5000"
    assert state.headers["upload-length"] == str(len(BODY))
    assert state.headers["upload-complete"] == "?0"
    assert state.headers["cache-control"] == "no-store"
    last = {"Upload_Complete": "?1", "Content_Type": PARTIAL, **version}
    done = (
        await exchange(client, f"PATCH {url}", BODY[5000:], Upload_Offset="5000", **last)
    ).answer
    assert (done.status, done.headers["upload-complete"]) == (201, "?1")
    await check_file(client, done.headers["location"], BODY)
    again = await exchange(client, f"PATCH {url}", b"", Upload_Offset=str(len(BODY)), **last)
    assert (again.answer.status, again.answer.body) == (201, done.body)
    async with client.get(f"{done.headers['location']}info") as response:
        assert (await response.json())["media_type"] == "image/png"
    assert "tus-resumable" not in done.headers
    assert len(leftovers.files()) == 1


async def test_reaching_the_length_is_not_the_end(client: Client) -> None:
    made = await exchange(client, "POST /files/", b"abc", Upload_Complete="?0", Upload_Length="3")
    url = made.answer.headers["location"]
    assert made.answer.headers["upload-complete"] == "?0"
    async with client.get(url.replace("uploads", "files")) as response:
        assert response.status == 404
    async with client.get(url) as response:
        assert (response.status, response.headers["Upload-Offset"]) == (204, "3")
    done = await exchange(
        client, f"PATCH {url}", Upload_Complete="?1", Upload_Offset="3", Content_Type=PARTIAL
    )
    assert done.answer.status == 201
    await check_file(client, url, b"abc")


async def test_older_clients_end_an_empty_upload_by_its_length(client: Client) -> None:
    made = await exchange(
        client, "POST /files/", Upload_Complete="?0", Upload_Length="0",
        Upload_Draft_Interop_Version="6",
    )  # fmt: skip
    assert made.answer.headers["upload-complete"] == "?1"
    await check_file(client, made.answer.headers["location"], b"")


async def test_names_come_as_for_a_plain_upload_or_as_for_tus(client: Client) -> None:
    name = base64.b64encode("ж.txt".encode()).decode()
    for headers in (
        {"Content_Disposition": "attachment; filename*=UTF-8''%D0%B6.txt"},
        {"Upload_Metadata": f"filename {name}", "Content_Type": PARTIAL},
    ):
        done = await exchange(client, "POST /files/", b"x", Upload_Complete="?1", **headers)
        async with client.get(f"{done.answer.headers['location']}info") as response:
            info = await response.json()
        assert (info["name"], info["media_type"]) == ("ж.txt", "text/plain")


async def make(client: Client, length: int | None = None) -> str:
    told = {} if length is None else {"Upload_Length": str(length)}
    made = await exchange(client, "POST /files/", b"01234", Upload_Complete="?0", **told)
    return made.answer.headers["location"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "kind"),
    [
        ({"Upload_Offset": "4"}, b"x", 409, "mismatching-upload-offset"),
        ({"Upload_Offset": "6"}, b"x", 409, "mismatching-upload-offset"),
        ({"Upload_Offset": "5", "Upload_Length": "9"}, b"x", 400, "inconsistent-upload-length"),
        ({"Upload_Offset": "5", "Upload_Complete": "?1"}, b"x", 400, "inconsistent-upload-length"),
        ({"Upload_Offset": "5", "Content_Type": "text/plain"}, b"x", 415, None),
        ({"Upload_Offset": "x"}, b"x", 400, None),
        ({"Upload_Offset": "-5"}, b"x", 400, None),
        ({"Upload_Offset": "5", "Upload_Complete": "yes"}, b"x", 400, None),
        ({"Upload_Offset": "5", "Content_Encoding": "gzip"}, b"x", 415, None),
    ],
)
async def test_an_append_that_is_wrong_changes_nothing(
    client: Client, headers: dict[str, str], body: bytes, status: int, kind: str | None
) -> None:
    url = await make(client, 10)
    told = {"Upload_Complete": "?0", "Content_Type": PARTIAL} | headers
    answer = (await exchange(client, f"PATCH {url}", body, **told)).answer
    assert answer.status == status, answer.body
    assert kind is None or answer.problem["type"] == REGISTERED + kind
    if status == 409:
        assert answer.headers["upload-offset"] == "5"
        assert answer.headers["upload-complete"] == "?0"
        provided = int(headers["Upload_Offset"])
        assert (answer.problem["expected-offset"], answer.problem["provided-offset"]) == (
            5,
            provided,
        )
    state = (await exchange(client, f"HEAD {url}")).answer
    assert state.headers["upload-offset"] == "5"


async def test_more_than_was_declared_ends_the_upload(client: Client, leftovers: Leftovers) -> None:
    url = await make(client, 10)
    told = {"Upload_Complete": "?0", "Content_Type": PARTIAL, "Upload_Offset": "5"}
    assert (await exchange(client, f"PATCH {url}", b"x" * 6, **told)).answer.status == 413
    assert (await exchange(client, f"HEAD {url}")).answer.status == 404
    assert leftovers.files() == []


async def test_an_upload_that_is_too_large_is_refused_before_its_body(serve: Serve) -> None:
    client = await serve(max_size=100)
    done = await exchange(
        client, "POST /files/", b"x" * 101, Upload_Complete="?1", Upload_Draft_Interop_Version="6"
    )
    assert (done.interim, done.answer.status) == ([], 413)


async def test_a_cancelled_upload_is_gone(client: Client, leftovers: Leftovers) -> None:
    url = await make(client)
    assert (await exchange(client, f"DELETE {url}")).answer.status == 204
    assert (await exchange(client, f"HEAD {url}")).answer.status == 404
    assert leftovers.files() == []


async def test_a_header_that_is_no_boolean_is_ignored(client: Client) -> None:
    done = await exchange(client, "POST /files/", b"abc", Upload_Complete="1")
    assert done.answer.status == 201
    assert "upload-complete" not in done.answer.headers
    await check_file(client, done.answer.headers["location"], b"abc")


async def test_the_digest_of_the_whole_is_verified_at_the_end(
    client: Client, leftovers: Leftovers
) -> None:
    wrong = f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"
    done = await exchange(client, "POST /files/", b"abc", Upload_Complete="?1", Repr_Digest=wrong)
    assert done.answer.status == 400
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


async def test_progress_is_told_on_the_way(client: Client) -> None:
    wire = await Wire.to(client)
    head = "POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nUpload-Complete: ?1\r\n"
    await wire.send(f"{head}Upload-Draft-Interop-Version: 6\r\n\r\n".encode(), bytes(100_000))
    status, headers = await _read_head(wire)
    assert (status, "location" in headers) == (104, True)
    status, headers = await _read_head(wire)
    assert (status, headers["upload-offset"]) == (104, "100000")
    assert "location" not in headers
    await wire.send(bytes(100_000))
    status, _ = await _read_head(wire)
    assert status == 201
    await wire.close()
