import shutil
from collections.abc import Awaitable, Callable

import pytest

from file_service.config import Settings
from file_service.web.keys import HEALTH
from tests.conftest import Client, ServiceServer

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
