import hashlib
import re
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

from file_service.web.headers import format_digests
from tests.conftest import Client
from tests.web.standards import ALL, ROWS, Row, render
from tests.wire import Wire

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


async def upload(client: Client, body: str) -> tuple[str, str]:
    async with client.put("/files/a.txt", data=body.encode()) as response:
        path = response.headers["Location"]
    async with client.head(path) as response:
        return path, response.headers["Last-Modified"]


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


async def ask(client: Client, row: Row, words: dict[str, str]) -> list[str]:
    """Send the request of a row; return what is other than it says."""
    wire = await Wire.to(client)
    await wire.send(write_request(row, words))
    answer = await wire.receive(is_head=row.line.startswith("HEAD"))
    await wire.close()
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


async def test_every_row_of_the_standards_is_answered_as_it_says(client: Client) -> None:
    path, date = await upload(client, ALL)
    empty, _ = await upload(client, "")
    words = describe(path, empty, date)
    broken = {
        f"{row.source}: {row.says}": wrong
        for row in ROWS
        if (wrong := await ask(client, row, words))
    }
    assert broken == {}
    assert len(ROWS) >= 100


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text() == render(ROWS), "python -m tests.web.standards > docs/conformance.md"
