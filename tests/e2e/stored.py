"""What clients of resumable uploads are judged by: a service, and the file that comes out of it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import _empty
from tests.e2e.conftest import Payload, ask_once, info_of
from tests.processes import ServiceProcess, running_service

SIZE = 3_000_017
MIB = 1024 * 1024
NAME = 'Отчёт "за год" 보고서 🎉.pdf'
PDF = "application/pdf"
NAMED = {"filename": NAME, "filetype": PDF}


# Databases, each with the workers that it is tried with: one process alone, and several.
VARIANTS = [("sqlite", "1"), ("postgresql", "2")]
IDS = ["SQLite, one worker", "PostgreSQL, two workers"]


@pytest.fixture(scope="module", name="service", params=VARIANTS, ids=IDS)
def service_for_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """One service for all tests of a variant: uploads do not see each other."""
    database, workers = request.param
    folder = tmp_path_factory.mktemp("service")
    running = running_service(
        "--dir",
        str(_made(folder / "files")),
        "--database-url",
        make_database(request, database, folder),
        "--workers",
        workers,
    )
    yield running
    running.end()


def make_database(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """Return the address of an empty catalogue; the embedded one is made by the service."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/catalogue.db"
    url: str = request.getfixturevalue("postgres_url")
    asyncio.run(_empty(url))
    return url


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def check_stored(
    service: ServiceProcess, file_id: str, payload: Payload, name: str = NAME, kind: str = PDF
) -> None:
    """Whatever the way in, what comes out is the file, under its name."""
    info = info_of(service, file_id)
    assert (info["name"], info["size"], info["media_type"]) == (name, payload.size, kind)
    answer = ask_once(service, "GET", f"/files/{file_id}/")
    assert (answer.status, answer.sha256) == (200, payload.sha256)
    assert answer.headers["content-type"] == kind
