"""Ten thousand names that mean harm, over real HTTP: each is refused, or does none."""

import asyncio
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import pytest

from tests.e2e.conftest import sqlite_only
from tests.processes import ServiceProcess
from tests.web.hostile import (
    SEED,
    UNSEEN,
    drop_unseen,
    has_stray_joiner,
    make_names,
    read_disposition,
)
from tests.wire import Wire

COUNT = int(os.environ.get("FILE_SERVICE_TEST_NAMES", "10000"))
CONNECTIONS = 4

JSON = b"Accept: application/json\r\n"
POST = b"POST /files/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n" + JSON

EXPECTED_HEADERS = sorted([
    "content-type", "content-disposition", "etag", "last-modified", "repr-digest", "accept-ranges",
    "vary", "x-content-type-options", "content-security-policy", "cross-origin-resource-policy",
    "x-frame-options", "referrer-policy", "cache-control", "content-length", "date", "server",
    "x-request-id",
])  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A name, the request that carries it, and the name that must come of it, where clear."""

    way: str
    sent: bytes
    request: bytes
    stored: str | None

    @property
    def ends_connection(self) -> bool:
        """Whether the name may have ended the head, so that nobody knows what follows."""
        return bool({10, 13, 0} & set(self.sent))


def by_query(name: bytes, _careful: bool) -> bytes:
    path = b"/files/?filename=" + quote(name, safe="").encode()
    return POST.replace(b"/files/", path, 1) + b"\r\nx"


def by_disposition(name: bytes, careful: bool) -> bytes:
    text = name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') if careful else name
    return POST + b'Content-Disposition: attachment; filename="' + text + b'"\r\n\r\nx'


def by_extended(name: bytes, careful: bool) -> bytes:
    text = quote(name, safe="" if careful else "!#$&'()*+,/:;=?@").encode()
    return POST + b"Content-Disposition: attachment; filename*=UTF-8''" + text + b"\r\n\r\nx"


def by_form(name: bytes, careful: bool) -> bytes:
    if careful:  # as browsers do
        name = name.replace(b'"', b"%22").replace(b"\r", b"%0D").replace(b"\n", b"%0A")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="' + name + b'"\r\n\r\nx'
        b"\r\n--b--\r\n"
    )
    head = POST.replace(b"Length: 1", b"Length: %d" % len(body))
    return head + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body


def by_path(name: bytes, careful: bool) -> bytes:
    path = quote(name, safe="" if careful else "!$&'()*+,;=:@/").encode()
    return POST.replace(b"POST /files/", b"PUT /files/" + path, 1) + b"\r\nx"


WAYS = {
    "query": by_query,
    "filename": by_disposition,
    "filename*": by_extended,
    "form": by_form,
    "path": by_path,
}


def make_cases(way: str) -> Iterator[Case]:
    """Yield the names whose turn it is to go `way`, by turns as its standard has it or not."""
    for at, name in enumerate(make_names(COUNT)):
        careful = at // len(WAYS) % 2 == 0
        if list(WAYS)[at % len(WAYS)] == way:
            yield Case(way, name, WAYS[way](name, careful), _expect(way, name, careful))


def _expect(way: str, name: bytes, careful: bool) -> str | None:
    """Return the name that a client means: the last segment, where its way in loses nothing."""
    is_ambiguous = way == "form" and any(each in name for each in (b"%22", b"%0", b"\\"))
    if not careful or is_ambiguous:
        return None
    try:
        return name.decode().replace("\\", "/").rpartition("/")[2] or None
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class Reply:
    """An answer with every header as it came, not folded into a mapping."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str:
        (value,) = [value for each, value in self.headers if each == name]
        return value


async def receive(wire: Wire, *, is_head: bool = False) -> Reply:
    head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 30)
    first, *lines = head.decode("ascii").split("\r\n")[:-2]
    pairs = [line.partition(": ") for line in lines]
    headers = [(name.lower(), value) for name, _, value in pairs]
    length = 0 if is_head else int(dict(headers)["content-length"])
    return Reply(int(first.split(" ")[1]), headers, await wire.reader.readexactly(length))


class Caller:
    """One caller that takes cases until none is left, over a connection for as long as it holds."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._wire: Wire | None = None
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(self, cases: Iterator[Case]) -> None:
        for case in cases:
            try:
                await self._try(case)
            except (AssertionError, ValueError, EOFError, OSError) as error:
                self.faults.append(f"{case.way} {case.sent!r}: {error!r}")
                await self.close()
        await self.close()

    async def _try(self, case: Case) -> None:
        reply = await self._ask(case.request)
        if case.ends_connection or ("connection", "close") in reply.headers:
            await self.close()
        if reply.status == 201:
            self.seen["accepted"] += 1
            await self._check_download(case, json.loads(reply.body))
        else:
            self.seen["refused"] += 1
            check_refusal(reply)

    async def _check_download(self, case: Case, file: dict[str, str]) -> None:
        path = f"/files/{file['id']}".encode()
        end = b" HTTP/1.1\r\nHost: x\r\n\r\n"
        wire = await self._connect()
        await wire.send(b"HEAD " + path + end + b"GET " + path + b"/info" + end)
        download, info = await receive(wire, is_head=True), await receive(wire)
        assert (download.status, info.status) == (200, 200)
        name = json.loads(info.body)["name"]
        assert name == file["name"]
        assert case.stored in {None, name}, name
        check_stored(name)
        check_headers(download, name)

    async def _ask(self, request: bytes) -> Reply:
        wire = await self._connect()
        await wire.send(request)
        return await receive(wire)

    async def _connect(self) -> Wire:
        if self._wire is None:
            address = self._address
            self._wire = Wire(*await asyncio.open_connection(address.hostname, address.port))
        return self._wire

    async def close(self) -> None:
        if self._wire is not None:
            await self._wire.close()
        self._wire = None


def check_refusal(reply: Reply) -> None:
    assert 400 <= reply.status < 500, reply
    assert reply.get("content-type") == "application/problem+json"
    problem = json.loads(reply.body)
    assert problem["status"] == reply.status
    assert {"type", "title", "detail"} <= set(problem)


def check_stored(name: str) -> None:
    assert 1 <= len(name) <= 255, name
    assert name not in {".", ".."}
    assert not set(name) & set("/\\"), name
    assert {unicodedata.category(each) for each in name}.isdisjoint({"Cc", "Cs"}), name


def check_headers(reply: Reply, name: str) -> None:
    assert sorted(each for each, _ in reply.headers) == EXPECTED_HEADERS
    kind, parameters = read_disposition(reply.get("content-disposition"))
    assert (kind, sorted(parameters)) == ("attachment", ["filename", "filename*"])
    check_plain(parameters["filename"])
    check_full(parameters["filename*"], name)


def check_plain(plain: str) -> None:
    """The ASCII form, which clients of every age take as it stands."""
    assert plain.isascii(), plain
    assert plain.isprintable(), plain
    assert not set(plain) & set('%"/\\'), plain
    assert len(plain) <= 255, f"{len(plain)} characters: {plain}"
    check_ends(plain)


def check_full(full: str, name: str) -> None:
    """The form in UTF-8: the stored name, less what nobody sees and what no disk has room for."""
    assert UNSEEN.search(full) is None, ascii(full)
    assert not has_stray_joiner(full), ascii(full)
    check_stored(full)
    check_ends(full)
    whole = drop_unseen(name)
    if len(whole.encode()) <= 255:
        assert full == (whole or "file"), ascii(full)
        return
    assert len(full.encode()) <= 255, ascii(full)
    _, dot, extension = whole.rpartition(".")
    if dot and len(extension.encode()) <= 32:
        assert full.endswith(dot + extension), ascii(full)
        full = full.removesuffix(dot + extension)
    assert whole.startswith(full), ascii(full)
    assert len(full.encode()) > 200, ascii(full)


def check_ends(text: str) -> None:
    """Windows drops dots and blanks at the end; at the beginning nobody sees a blank."""
    assert text.strip("."), ascii(text)
    assert text == text.strip(), ascii(text)
    assert not text.endswith("."), ascii(text)


@sqlite_only
@pytest.mark.parametrize("way", WAYS)
async def test_a_hostile_name_is_refused_or_comes_back_harmless(
    service: ServiceProcess, way: str
) -> None:
    cases = make_cases(way)
    callers = [Caller(service.url) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(caller.run(cases) for caller in callers))
    seen = sum((caller.seen for caller in callers), Counter())
    print(f"seed {SEED}: {dict(seen)}")  # noqa: T201  # what a failure is repeated by
    faults = sorted((fault for caller in callers for fault in caller.faults), key=len)
    assert faults == [], "\n".join(faults[:40])
    assert seen.total() == COUNT // len(WAYS)
    # Both happen, or nothing was tried.
    assert min(seen["accepted"], seen["refused"]) > COUNT // 100
