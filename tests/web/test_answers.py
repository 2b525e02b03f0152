"""Answers that are given again without being made again, and when they must not be."""

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from unittest.mock import patch

import pytest

from file_service.blobs.local import LocalStore
from file_service.catalogue.queries import Catalogue
from file_service.core.files import Files
from file_service.errors import BlobMissing, CatalogueUnavailable, StoreUnavailable
from file_service.models import File
from file_service.web import answers
from file_service.web.answers import Answer, Answers
from file_service.web.keys import HEALTH
from tests.conftest import Client, Leftovers, MakeService
from tests.web.test_tus_interrupted import address_of
from tests.wire import Answer as Received
from tests.wire import Wire

BODY = os.urandom(4096)


@pytest.fixture
async def wire(client: Client) -> AsyncIterator[Wire]:
    wire = await Wire.to(client)
    yield wire
    await wire.close()


async def put(client: Client, body: bytes = BODY) -> str:
    async with client.post("/files/", data=body) as response:
        assert response.status == 201
        return await response.text()


async def get(wire: Wire, file_id: str, *fields: str, method: str = "GET") -> Received:
    head = "\r\n".join([f"{method} /files/{file_id} HTTP/1.1", "Host: x", *fields, "", ""])
    await wire.send(head.encode())
    return await wire.receive(is_head=method == "HEAD")


def forgetful() -> AbstractContextManager[object]:
    """Have nobody find a row: what is answered now is answered from memory."""
    return patch.object(Catalogue, "get_file", side_effect=CatalogueUnavailable("away"))


async def test_the_same_question_is_answered_the_same_without_the_catalogue(
    client: Client, wire: Wire
) -> None:
    file_id = await put(client)
    first = await get(wire, file_id)
    with forgetful():
        others = [await get(wire, file_id) for _ in range(5)]
    assert [each.status for each in others] == [200] * 5
    assert [each.body for each in others] == [BODY] * 5
    changing = {"date", "x-request-id"}
    for each in others:
        assert each.headers.keys() == first.headers.keys()
        assert {k: v for k, v in each.headers.items() if k not in changing} == {
            k: v for k, v in first.headers.items() if k not in changing
        }
    assert len({each.headers["x-request-id"] for each in (first, *others)}) == 6


async def test_another_connection_of_the_same_client_shares_them(
    client: Client, wire: Wire
) -> None:
    file_id = await put(client)
    await get(wire, file_id)
    other = await Wire.to(client)
    await get(other, file_id, "X: first")  # for its handler to be up and waiting
    with forgetful():
        assert (await get(other, file_id)).body == BODY
    await other.close()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Range: bytes=0-0"], 206),
        (["If-None-Match: *"], 304),
        (['If-Match: "x"'], 412),
        (["Connection: close"], 200),
    ],
)
async def test_what_is_no_plain_answer_is_made_each_time(
    client: Client, wire: Wire, fields: list[str], status: int
) -> None:
    file_id = await put(client)
    assert (await get(wire, file_id, *fields)).status == status
    wire = await Wire.to(client)
    with forgetful():
        assert (await get(wire, file_id, *fields)).status == 503
    await wire.close()


@pytest.mark.parametrize("is_other", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_get_with_a_body_is_never_answered_from_its_head_alone(
    client: Client, wire: Wire, framing: str, is_other: bool
) -> None:
    """Else its body, in a packet of its own, would be the next request."""
    file_id = await put(client)
    hidden = f"DELETE /files/{file_id} HTTP/1.1\r\nHost: x\r\n\r\n"
    field, body = f"Content-Length: {len(hidden)}", hidden
    if framing == "chunked":
        field, body = "Transfer-Encoding: chunked", f"{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n"
    head = f"GET /files/{file_id} HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n"
    await wire.send((head + body).encode())
    assert (await wire.receive()).status == 200
    other = await Wire.to(client) if is_other else wire
    await other.send(head.encode())
    await asyncio.sleep(0.05)
    await other.send(body.encode())
    assert (await other.receive()).status == 200
    last = await Wire.to(client)
    assert (await get(last, file_id)).status == 200
    for each in (other, last):
        await each.close()


async def test_a_head_request_is_made_each_time(client: Client, wire: Wire) -> None:
    file_id = await put(client)
    for method in ("HEAD", "GET"):
        answer = await get(wire, file_id, method=method)
        assert (answer.status, answer.headers["content-length"]) == (200, "4096")
    with forgetful():
        assert (await get(wire, file_id, method="HEAD")).status == 503


async def test_an_old_protocol_gets_no_answer_of_the_new(client: Client, wire: Wire) -> None:
    file_id = await put(client)
    sent = f"GET /files/{file_id} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode()
    for _ in range(2):
        await wire.send(sent)
        assert (await wire.receive()).headers["connection"] == "keep-alive"


async def test_an_id_that_a_client_gives_its_request_comes_back(client: Client, wire: Wire) -> None:
    file_id = await put(client)
    for _ in range(3):
        for name in ("one", "two"):
            answer = await get(wire, file_id, f"X-Request-ID: {name}")
            assert answer.headers["x-request-id"] == name


async def test_a_deleted_file_is_gone_for_the_next_request(client: Client, wire: Wire) -> None:
    file_id = await put(client)
    assert [(await get(wire, file_id)).status for _ in range(3)] == [200] * 3
    async with client.delete(f"/files/{file_id}") as response:
        assert response.status == 204
    assert (await get(wire, file_id)).status == 404


async def test_a_deletion_that_cannot_take_the_bytes_waits_for_those_who_remember(
    client: Client, wire: Wire
) -> None:
    file_id = await put(client)
    assert [(await get(wire, file_id)).status for _ in range(3)] == [200] * 3
    with patch.object(LocalStore, "delete", side_effect=StoreUnavailable("read-only")):
        async with client.delete(f"/files/{file_id}") as response:
            assert response.status == 204
    assert (await get(wire, file_id)).status == 404


async def test_so_does_whoever_deletes_it_again(client: Client, wire: Wire) -> None:
    """A 404 says, too, that nobody has it any more."""
    file_id = await put(client)
    assert [(await get(wire, file_id)).status for _ in range(3)] == [200] * 3
    with patch.object(LocalStore, "delete", side_effect=StoreUnavailable("read-only")):
        first = asyncio.create_task(delete(client, file_id))
        while not await is_removed(client, file_id):
            await asyncio.sleep(0.01)
        assert await delete(client, file_id) == 404
        assert (await get(wire, file_id)).status == 404
        assert await first == 204


async def delete(client: Client, file_id: str) -> int:
    async with client.delete(f"/files/{file_id}") as response:
        return response.status


async def is_removed(client: Client, file_id: str) -> bool:
    async with client.get(f"/files/{file_id}/info") as response:
        return response.status == 404


async def test_what_is_kept_of_a_file_is_no_more_than_its_answer(
    client: Client, wire: Wire
) -> None:
    """What its client said of it may be larger than its bytes, and no answer has it."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    field = b'--b\r\nContent-Disposition: form-data; name="t"\r\n\r\n' + b"x" * 60_000
    file = b'\r\n--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n--b--'
    async with client.post("/files/", data=field + file, headers=headers) as response:
        file_id = await response.text()
    before = count_files()
    for number in range(10):
        assert (await get(wire, file_id, f"X: {number}")).status == 200
    assert count_files() == before


def count_files() -> int:
    gc.collect()
    return sum(isinstance(each, File) for each in gc.get_objects())


async def test_a_file_deleted_at_one_worker_is_gone_at_every_other(
    make_service: MakeService,
) -> None:
    service = make_service("--workers", "2")
    wires = [await Wire.to(address_of(service)) for _ in range(16)]
    for _ in range(10):
        await wires[0].send(
            b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4096\r\n\r\n" + BODY
        )
        file_id = (await wires[0].receive()).body.decode()
        for _ in range(3):
            assert [(await get(wire, file_id)).status for wire in wires] == [200] * 16
        await wires[0].send(f"DELETE /files/{file_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await wires[0].receive()).status == 204
        assert [(await get(wire, file_id)).status for wire in wires] == [404] * 16
    for wire in wires:
        await wire.close()


async def test_bytes_that_have_changed_are_not_answered_from_memory(
    client: Client, wire: Wire, leftovers: Leftovers
) -> None:
    file_id = await put(client)
    assert [(await get(wire, file_id)).status for _ in range(3)] == [200] * 3
    (blob,) = leftovers.files()
    os.truncate(leftovers.settings.dir / blob, 4095)
    assert (await get(wire, file_id)).status == 500


async def test_after_its_lease_an_answer_is_made_anew(
    client: Client, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("file_service.core.files.LEASE_SECONDS", 0.2)
    file_id = await put(client)
    await get(wire, file_id)
    await asyncio.sleep(0.3)
    with forgetful():
        assert (await get(wire, file_id)).status == 503
    assert (await get(wire, file_id)).body == BODY


async def test_an_answer_that_is_used_is_renewed(
    client: Client, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("file_service.core.files.LEASE_SECONDS", 0.4)
    file_id = await put(client)
    await get(wire, file_id)
    with patch.object(Files, "load", side_effect=BlobMissing("not again")):
        for _ in range(30):  # three leases long, and handled once
            assert (await get(wire, file_id)).body == BODY
            await asyncio.sleep(0.04)
    async with client.delete(f"/files/{file_id}") as response:
        assert response.status == 204
    assert (await get(wire, file_id)).status == 404


async def test_a_service_that_stops_tells_everybody_so(client: Client, wire: Wire) -> None:
    file_id = await put(client)
    assert [(await get(wire, file_id)).status for _ in range(3)] == [200] * 3
    assert client.app is not None
    client.app[HEALTH].is_draining = True
    answer = await get(wire, file_id)
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_every_answer_has_its_line_in_the_log(
    client: Client, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    file_id = await put(client)
    with caplog.at_level(logging.INFO, "file_service.access"):
        caplog.clear()
        received = [await get(wire, file_id) for _ in range(3)]
    told = [vars(record) for record in caplog.records if record.name == "file_service.access"]
    assert [each["request_id"] for each in told] == [
        each.headers["x-request-id"] for each in received
    ]
    for name in ("method", "path", "status", "size", "remote"):
        assert len({each[name] for each in told}) == 1


async def test_answers_keep_a_connection_alive(make_service: MakeService) -> None:
    """Else the timers of its first head, and of its last real answer, would close it."""
    service = make_service("--keepalive-seconds", "1", "--head-seconds", "1")
    wire = await Wire.to(address_of(service))
    await wire.send(b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4096\r\n\r\n" + BODY)
    file_id = (await wire.receive()).body.decode()
    other = await Wire.to(address_of(service))
    for _ in range(25):
        assert [(await get(each, file_id)).body for each in (wire, other)] == [BODY] * 2
        await asyncio.sleep(0.1)
    for each in (wire, other):
        assert await each.is_closed()
        await each.close()


def make_answer(body: bytes = b"x", *, is_current: bool = True) -> Answer:
    return Answer(
        fields=b"HTTP/1.1 200 OK\r\n",
        body=body,
        method="GET",
        path="/",
        remote=None,
        request_id="id",
        is_current=lambda: is_current,
    )


def test_the_oldest_answers_go_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_ANSWERS", 3)
    kept = Answers()
    for number in range(5):
        kept.keep(("", b"%d" % number), make_answer())
    assert [kept.find(("", b"%d" % number)) is not None for number in range(5)] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_the_oldest_answers_go_where_they_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_BYTES", 1000)
    kept = Answers()
    for number in range(5):
        kept.keep(("", b"%d" % number), make_answer(b"x" * 400))
        kept.keep(("", b"%d" % number), make_answer(b"x" * 400))
    assert [kept.find(("", b"%d" % number)) is not None for number in range(5)] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_an_answer_that_is_not_current_is_forgotten() -> None:
    kept = Answers()
    kept.keep(("", b""), make_answer(is_current=False))
    assert kept.find(("", b"")) is None
    assert kept._size == 0
