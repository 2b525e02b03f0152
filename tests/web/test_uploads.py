import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import FormData
from yarl import URL

from file_service.web.headers import format_digests
from tests.conftest import Client, Leftovers

Serve = Callable[..., Awaitable[Client]]
BODY = bytes(range(256)) * 2000
JSON = {"Accept": "application/json"}

NAMES = [
    "report.pdf",
    "Отчёт за май.pdf",
    "보고서 최종.hwp",
    'a "quoted" name.txt',
    "semi;colon; filename=x.txt",
    "100%25 sure 100%.txt",
    "📦 emoji 👨‍👩‍👧.zip",
    "'single' & (round) [square].txt",
    "ünïcödé + plus.tar.gz",
    "n" * 255,
    ".hidden",
    "한" * 255,
]


async def chunked(body: bytes = BODY, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def upload(client: Client, **request: Any) -> dict[str, Any]:
    """Upload by POST and return the file as JSON."""
    headers = JSON | request.pop("headers", {})
    async with client.post("/files/", headers=headers, **request) as response:
        assert response.status == 201, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def info(client: Client, file_id: str) -> dict[str, Any]:
    async with client.get(f"/files/{file_id}/info") as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def content(client: Client, file_id: str) -> bytes:
    async with client.get(f"/files/{file_id}/") as response:
        assert response.status == 200
        return await response.read()


@pytest.mark.parametrize("data", [BODY, b"", b"x"])
async def test_a_raw_body_with_a_length_becomes_a_file(client: Client, data: bytes) -> None:
    file = await upload(client, data=data)
    assert await content(client, file["id"]) == data
    assert file["size"] == len(data)
    assert file["digest"] == format_digests({"sha-256": hashlib.sha256(data).hexdigest()})


async def test_a_chunked_body_becomes_a_file(client: Client) -> None:
    file = await upload(client, data=chunked())
    assert await content(client, file["id"]) == BODY
    assert file["size"] == len(BODY)


async def test_an_upload_without_any_body_is_an_empty_file(client: Client) -> None:
    file = await upload(client)
    assert (file["size"], await content(client, file["id"])) == (0, b"")


async def test_the_answer_is_the_bare_id_with_where_it_is_and_what_it_is(client: Client) -> None:
    async with client.post("/files", data=BODY) as response:
        body = await response.text()
        digest = hashlib.sha256(BODY).hexdigest()
        assert response.status == 201
        assert response.content_type == "text/plain"
        assert response.headers["Location"] == f"/files/{body}/"
        assert response.headers["ETag"] == f'"{digest}"'
        assert response.headers["Repr-Digest"] == format_digests({"sha-256": digest})
        assert "Accept" in response.headers["Vary"]
    assert (await info(client, body))["id"] == body


async def test_what_was_uploaded_lies_on_disk_under_its_id_and_nothing_else(
    client: Client, leftovers: Leftovers
) -> None:
    file = await upload(client, data=BODY)
    assert [name.rsplit("/")[-1] for name in leftovers.files()] == [file["id"]]
    assert await leftovers.rows() == 1


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_comes_back_unchanged(client: Client, name: str) -> None:
    quoted = name.replace('"', '\\"')
    extended = quote(name, safe="")
    ways: list[dict[str, Any]] = [
        {"headers": {"Content-Disposition": f"attachment; filename*=UTF-8''{extended}"}},
        {"headers": {"Content-Disposition": f'attachment; filename="{quoted}"'}},
        {"params": {"filename": name}},
        {"data": FormData({}, default_to_multipart=True), "name": name},
    ]
    for way in ways:
        if way.pop("name", None):
            # As browsers do: only the quote is escaped.
            way["data"] = multipart(("f", name.replace('"', "%22"), b"x"))
            way["headers"] = {"Content-Type": "multipart/form-data; boundary=b"}
        else:
            way["data"] = b"x"
        file = await upload(client, **way)
        assert file["name"] == name
        assert (await info(client, file["id"]))["name"] == name


@pytest.mark.parametrize("name", NAMES)
async def test_put_names_the_file_by_its_path(client: Client, name: str) -> None:
    path = f"/files/{quote(name, safe='')}"
    async with client.put(path, data=chunked(), headers=JSON) as response:
        assert response.status == 201
        file = await response.json()
    assert file["name"] == name
    assert await content(client, file["id"]) == BODY


async def test_put_twice_makes_two_files(client: Client) -> None:
    ids = set()
    for _ in range(2):
        async with client.put("/files/same.txt", data=b"x") as response:
            ids.add(await response.text())
    assert len(ids) == 2


async def test_the_header_names_the_file_before_the_query(client: Client) -> None:
    headers = {"Content-Disposition": "attachment; filename=header"}
    file = await upload(client, data=b"x", headers=headers, params={"filename": "query"})
    assert file["name"] == "header"


async def test_a_file_without_a_name_is_named_by_its_id(client: Client) -> None:
    file = await upload(client, data=b"x")
    assert file["name"] == file["id"]


async def test_of_a_path_the_last_segment_is_the_name(client: Client) -> None:
    for sent in ["folder/deep/name.txt", r"C:\Users\me\name.txt", "/name.txt"]:
        assert (await upload(client, data=b"x", params={"filename": sent}))["name"] == "name.txt"


@pytest.mark.parametrize(
    ("declared", "name", "expected"),
    [
        ("image/png", "x.pdf", "image/png"),
        ("text/plain; charset=koi8-r", "x", "text/plain; charset=koi8-r"),
        ("application/octet-stream", "x.pdf", "application/pdf"),
        ("application/x-www-form-urlencoded", "x.pdf", "application/pdf"),
        ("application/octet-stream", "no extension", "application/octet-stream"),
        ("application/octet-stream", "x.docx", DOCX := "application/vnd.openxmlformats-"
         "officedocument.wordprocessingml.document"),
        ("application/octet-stream", "x.tar.gz", "application/gzip"),
        ("application/octet-stream", "X.PNG", "image/png"),
    ],
)  # fmt: skip
async def test_the_media_type_is_the_declared_one_or_told_by_the_name(
    client: Client, declared: str, name: str, expected: str
) -> None:
    headers = {"Content-Type": declared}
    file = await upload(client, data=b"x", headers=headers, params={"filename": name})
    assert file["media_type"] == expected
    async with client.get(f"/files/{file['id']}/") as response:
        assert response.headers["Content-Type"] == expected


async def test_without_a_content_type_the_name_tells_the_media_type(client: Client) -> None:
    async with client.session.put(
        client.make_url("/files/x.pdf"),
        data=b"x",
        headers=JSON,
        skip_auto_headers=["Content-Type"],
    ) as response:
        assert (await response.json())["media_type"] == "application/pdf"


def multipart(*parts: tuple[str, str | None, bytes]) -> bytes:
    """Write a form with the boundary `b`: (field, file name or None, content) each."""
    lines = []
    for field, filename, value in parts:
        disposition = f'form-data; name="{field}"'
        if filename is not None:
            disposition += f'; filename="{filename}"'
        head = f"--b\r\nContent-Disposition: {disposition}\r\n\r\n"
        lines.append(head.encode() + value + b"\r\n")
    return b"".join(lines) + b"--b--\r\n"


async def post_form(client: Client, body: bytes) -> tuple[int, Any]:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with client.post("/files/", data=body, headers=headers) as response:
        text = await response.text()
        return response.status, json.loads(text) if text[:1] in "[{" else text


async def test_a_form_with_one_file_answers_as_a_raw_upload_does(client: Client) -> None:
    status, file_id = await post_form(client, multipart(("f", "a.bin", BODY)))
    assert status == 201
    assert await content(client, file_id) == BODY


async def test_a_form_with_several_files_answers_with_an_array(client: Client) -> None:
    parts = [("f", "a.txt", BODY), ("f", "b.txt", b""), ("g", "c.txt", b"\r\n--\r\n--a")]
    status, files = await post_form(client, multipart(*parts))
    assert status == 201
    assert [file["name"] for file in files] == ["a.txt", "b.txt", "c.txt"]
    assert [await content(client, file["id"]) for file in files] == [p[2] for p in parts]


async def test_text_fields_before_a_file_become_its_metadata(client: Client) -> None:
    body = multipart(
        ("title", None, "Отчёт".encode()),
        ("f", "a", b"1"),
        ("note", None, b"second"),
        ("f", "b", b"2"),
    )
    _, (first, second) = await post_form(client, body)
    assert first["metadata"] == {"title": "Отчёт"}
    assert second["metadata"] == {"title": "Отчёт", "note": "second"}
    assert (await info(client, second["id"]))["metadata"] == second["metadata"]


async def test_a_file_input_where_none_was_chosen_is_passed_over(client: Client) -> None:
    status, answer = await post_form(client, multipart(("f", "", b""), ("g", "a", b"1")))
    assert (status, await content(client, answer)) == (201, b"1")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (multipart(("t", None, b"only text")), 400, "malformed"),
        (multipart(("f", "", b"")), 400, "malformed"),
        (multipart(("f", "a", b"1"), ("f", "", b"what would be lost")), 400, "malformed"),
        (multipart(("t", None, b"\1" * 60_000), *[("f", "a", b"1")] * 3), 413, "too-large"),
        (multipart(), 400, "malformed"),
        (b"", 400, "cut-short"),
        (multipart(("f", "a", BODY))[:-9], 400, "cut-short"),
        (multipart(("f", "a", BODY), ("f", "../b", BODY)), 400, "bad-name"),
        (multipart(("f", "a", BODY), ("f", "b%0D%0A", BODY)), 400, "bad-name"),
        (multipart(("f", "a", BODY), ("t", None, b"\xff")), 400, "malformed"),
        (multipart(("f", "a", BODY), ("t", None, b"x" * 70_000)), 413, "too-large"),
        (multipart(("x" * 5000, None, b"x" * 64_000), ("f", "a", b"")), 413, "too-large"),
    ],
)
async def test_of_a_bad_form_nothing_is_left(
    client: Client, leftovers: Leftovers, body: bytes, status: int, code: str
) -> None:
    """All of the form or none: also the files that came whole before the bad part."""
    got, problem = await post_form(client, body)
    assert (got, problem["type"]) == (status, f"/problems/{code}")
    assert leftovers.files() == []
    assert await leftovers.rows() == 0


async def test_a_form_without_a_boundary_is_refused(client: Client) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    async with client.post("/files/", data=b"x", headers=headers) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    "name",
    ["../x", "x/../y", "..", ".", "a\0b", "a\rb", "a\nb", "a\x1bb", "a\x85b", "n" * 256,
     "n" * 10_000, "..\\x"],
)  # fmt: skip
async def test_a_hostile_name_is_refused_and_nothing_is_left(
    client: Client, leftovers: Leftovers, name: str
) -> None:
    encoded = quote(name, safe="")
    disposition = {"Content-Disposition": f"attachment; filename*=UTF-8''{encoded}"}
    requests: list[dict[str, Any]] = [{"params": {"filename": name}}]
    if len(encoded) < 8000:
        requests.append({"headers": disposition})
    for request in requests:
        async with client.post("/files/", data=BODY, **request) as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, problem["type"]) == (400, "/problems/bad-name")
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


@pytest.mark.parametrize("name", ["a\0b", "a\r\nb", "n" * 256, "a/../b", "a%2F..%2Fb"])
async def test_a_hostile_name_in_a_path_is_refused(
    client: Client, leftovers: Leftovers, name: str
) -> None:
    async with client.put(f"/files/{quote(name, safe='')}", data=BODY) as response:
        # An encoded percent sign stays text: that name is only odd.
        assert response.status == (201 if "%2F" in name else 400)
    if "%2F" not in name:
        assert leftovers.files() == []


@pytest.mark.parametrize("field", ["Content-Disposition", "Content-Type"])
async def test_a_malformed_header_is_refused(
    client: Client, leftovers: Leftovers, field: str
) -> None:
    async with client.post("/files/", data=BODY, headers={field: "@ = ;"}) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["type"]) == (400, "/problems/malformed")
    assert leftovers.files() == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x-unknown"])
async def test_an_encoded_upload_is_refused(
    client: Client, leftovers: Leftovers, encoding: str
) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=b"):
        headers = {"Content-Encoding": encoding, "Content-Type": kind}
        async with client.session.post(
            client.make_url("/files/"), data=BODY, headers=headers
        ) as response:
            assert response.status == 415
    assert leftovers.files() == []


@pytest.mark.parametrize("data", [b"x" * 1001, b"x" * 1_000_000])
async def test_a_file_over_the_limit_is_refused_however_it_comes(
    serve: Serve, leftovers: Leftovers, data: bytes
) -> None:
    client = await serve(max_size=1000)
    form = multipart(("f", "small", b"x" * 1000), ("f", "large", data))
    ways: list[dict[str, Any]] = [
        {"data": data},
        {"data": chunked(data)},
        {"data": form, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    ]
    for way in ways:
        async with client.post("/files/", **way) as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, problem["type"]) == (413, "/problems/too-large")
            assert "1000" in problem["detail"]
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


async def test_a_file_of_exactly_the_limit_is_taken(serve: Serve) -> None:
    client = await serve(max_size=1000)
    for data in (b"x" * 1000, chunked(b"x" * 1000)):
        assert (await upload(client, data=data))["size"] == 1000


async def test_many_uploads_at_once_do_not_mix(client: Client) -> None:
    bodies = [bytes([n]) * 300_000 for n in range(20)]
    files = await asyncio.gather(*(upload(client, data=chunked(body)) for body in bodies))
    for body, file in zip(bodies, files, strict=True):
        assert await content(client, file["id"]) == body


async def test_a_name_in_a_url_that_is_not_utf_8_is_refused(
    client: Client, leftovers: Leftovers
) -> None:
    for method, url in (("PUT", "/files/%ff.txt"), ("POST", "/files/?filename=%ff.txt")):
        async with client.request(method, URL(url, encoded=True), data=b"x") as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, problem["type"]) == (400, "/problems/bad-name")
    assert (leftovers.files(), await leftovers.rows()) == ([], 0)


A_DIGEST = "sha-256=:ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs=:"  # of "a"


@pytest.mark.parametrize(
    ("heads", "status"),
    [
        (["Content-Digest: " + A_DIGEST], 201),
        (["Content-Digest: " + A_DIGEST.replace("y", "z", 1)], 400),
        (["Content-Encoding: gzip"], 415),
        (['Content-Disposition: form-data; name="g"; filename="other"'], 400),
    ],
)
async def test_what_a_part_says_of_itself_is_held_to(
    client: Client, leftovers: Leftovers, heads: list[str], status: int
) -> None:
    lines = ['Content-Disposition: form-data; name="f"; filename="x"', *heads]
    body = "--b\r\n" + "\r\n".join(lines) + "\r\n\r\na\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with client.post("/files/", data=body.encode(), headers=headers) as response:
        assert response.status == status, await response.text()
    assert await leftovers.rows() == (1 if status == 201 else 0)


async def test_a_text_field_that_is_there_twice_is_refused(client: Client) -> None:
    field = '--b\r\nContent-Disposition: form-data; name="t"\r\n\r\nx\r\n'
    body = field + field + "--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with client.post("/files/", data=body.encode(), headers=headers) as response:
        assert response.status == 400
        assert "twice" in await response.text()
