import re
import shutil
from collections.abc import Awaitable, Callable
from urllib.request import urlopen

import pytest

from file_service.config import Settings
from file_service.errors import find_kinds
from file_service.web.keys import HEALTH
from file_service.web.render import PROBLEMS
from tests.conftest import Client, MakeService, ServiceServer

Serve = Callable[..., Awaitable[Client]]


@pytest.mark.parametrize(("path", "word"), [("/healthz", "alive"), ("/readyz/", "ready")])
async def test_a_healthy_service_says_so(client: Client, path: str, word: str) -> None:
    async with client.get(path) as response:
        assert (response.status, await response.json()) == (200, {"status": word})
        assert response.headers["Cache-Control"] == "no-store"
    async with client.head(path) as response:
        assert response.status == 200


async def test_without_its_folder_it_lives_and_is_not_ready(
    client: Client, settings: Settings
) -> None:
    shutil.rmtree(settings.dir)
    async with client.get("/healthz") as response:
        assert response.status == 200
    async with client.get("/readyz") as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["type"]) == (503, "/problems/unavailable")
        assert "blob store" in problem["detail"]
        assert str(settings.dir) not in problem["detail"]
        assert response.headers["Retry-After"].isdecimal()


async def test_a_stopping_service_is_not_ready(client: Client) -> None:
    server = client.server
    assert isinstance(server, ServiceServer)
    server.app[HEALTH].is_draining = True
    async with client.get("/readyz") as response:
        assert response.status == 503
        assert "stopping" in await response.text()
    async with client.get("/healthz") as response:
        assert response.status == 200


async def test_readiness_comes_back_by_itself(client: Client, settings: Settings) -> None:
    away = settings.dir.with_name("away")
    settings.dir.rename(away)
    async with client.get("/readyz") as response:
        assert response.status == 503
    away.rename(settings.dir)
    async with client.get("/readyz") as response:
        assert response.status == 200


async def test_metrics_are_there_only_where_asked_for(client: Client, serve: Serve) -> None:
    async with client.get("/metrics") as response:
        assert response.status == 404
    open_client = await serve(metrics=True)
    async with open_client.post("/files/", data=b"abc") as response:
        assert response.status == 201
    async with open_client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert response.headers["Cache-Control"] == "no-store"
        text = await response.text()
    assert 'file_service_requests_total{status="201"}' in text
    assert "file_service_received_bytes_total" in text


async def test_unreadable_bytes_are_counted(client: Client, settings: Settings) -> None:
    async with client.post("/files/", data=b"abc") as response:
        key = await response.text()
    (settings.dir / "blobs" / key[:2] / key).unlink()
    before = PROBLEMS.get("blob-missing")
    async with client.get(f"/files/{key}/") as response:
        assert response.status == 500
    assert PROBLEMS.get("blob-missing") == before + 1


def test_workers_are_counted_together(make_service: MakeService) -> None:
    service = make_service("--workers", "2", "--metrics")
    for _ in range(40):  # each a connection of its own: on both workers
        with urlopen(f"{service.url}/healthz") as answer:
            assert answer.status == 200
    with urlopen(f"{service.url}/metrics") as answer:
        text = answer.read().decode()
    assert int(re.search(r'requests_total\{status="200"\} (\d+)', text)[1]) >= 40  # type: ignore[index]


async def test_a_problem_type_leads_to_what_it_means(client: Client) -> None:
    async with client.get("/files/x/") as response:
        kind = (await response.json(content_type="application/problem+json"))["type"]
    async with client.get(kind) as response:
        told = await response.json()
    assert told["title"] == "There is no such file"
    assert "id" in told["description"]
    async with client.get("/problems/no-such-thing") as response:
        assert response.status == 404


def test_every_kind_of_error_says_what_it_means_in_one_line() -> None:
    for code, kind in find_kinds().items():
        line = (kind.__doc__ or "").partition("\n")[0]
        assert line.endswith("."), code
        assert len(line) > 20, code
