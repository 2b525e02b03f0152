import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from file_service.web.headers import format_digests
from tests.conftest import MakeService
from tests.web.standards import ALL, ROWS, Row, render
from tests.wire import Answer, Wire

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


@dataclass(frozen=True)
class Address:
    """Where the service under test listens."""

    host: str
    port: int

    async def ask(self, request: bytes, *, is_head: bool = False) -> Answer:
        wire = await Wire.to(self)
        await wire.send(request)
        answer = await wire.receive(is_head=is_head)
        await wire.close()
        return answer


async def upload(address: Address, body: str) -> tuple[str, str]:
    head = f"PUT /files/a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    created = await address.ask((head + body).encode())
    path = created.headers["location"]
    seen = await address.ask(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), is_head=True)
    return path, seen.headers["last-modified"]


def describe(path: str, empty: str, date: str) -> dict[str, str]:
    moment = parsedate_to_datetime(date)
    digest = hashlib.sha256(ALL.encode()).hexdigest()
    return {
        "path": path,
        "bare": path.rstrip("/"),
        "empty": empty,
        "etag": f'"{digest}"',
        "digest": format_digests({"sha-256": digest}),
        "date": date,
        "before": format_datetime(moment - timedelta(seconds=1), usegmt=True),
        "after": format_datetime(moment + timedelta(seconds=1), usegmt=True),
    }


def fill(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\{([a-z]+)\}", lambda match: words.get(match[1], match[0]), text)


def write_request(row: Row, words: dict[str, str]) -> bytes:
    line = row.line if " HTTP/" in row.line or " " not in row.line else f"{row.line} HTTP/1.1"
    headers = {"Host": "x", **row.headers}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return (fill("\r\n".join(lines), words) + row.body).encode()


async def ask(address: Address, row: Row, words: dict[str, str]) -> list[str]:
    """Send the request of a row; return what is other than it says."""
    answer = await address.ask(write_request(row, words), is_head=row.line.startswith("HEAD"))
    wrong = [] if answer.status == row.status else [f"status {answer.status}"]
    for name, expected in row.answer.items():
        found = answer.headers.get(name.lower())
        if expected is None:
            is_right = found is None
        else:
            filled = fill(expected, words)
            is_right = found is not None and (found == filled or bool(re.fullmatch(filled, found)))
        if not is_right:
            wrong.append(f"{name}: {found}")
    if row.content is not None and answer.body != row.content.encode():
        wrong.append(f"body {answer.body[:60]!r}")
    return wrong


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_row_of_the_standards_is_answered_as_it_says(
    make_service: MakeService, workers: int
) -> None:
    url = urlsplit(make_service("--workers", str(workers)).url)
    address = Address(str(url.hostname), int(url.port or 0))
    path, date = await upload(address, ALL)
    empty, _ = await upload(address, "")
    words = describe(path, empty, date)
    broken = {
        f"{row.source}: {row.says}": wrong
        for row in ROWS
        if (wrong := await ask(address, row, words))
    }
    assert broken == {}
    assert len(ROWS) >= 100


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text() == render(ROWS), "python -m tests.web.standards > docs/conformance.md"
