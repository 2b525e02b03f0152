import re
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
from openapi_spec_validator import validate

from file_service.web.status import load_description
from tests.conftest import Client, MakeService, ServiceServer
from tests.processes import service_environment

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_the_description_is_openapi_3_1() -> None:
    validate(load_description())


@sqlite_only
async def test_the_description_is_served(client: Client) -> None:
    async with client.get("/openapi.json") as response:
        assert response.content_type == "application/json"
        assert await response.json() == load_description()


@sqlite_only
async def test_the_description_has_every_route_and_no_other(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    server = (await serve(metrics=True)).server
    assert isinstance(server, ServiceServer)
    served = {
        (route.method, re.sub(r"\{\w+(:[^{}]*)?\}$", "", route.resource.canonical).rstrip("/"))
        for route in server.app.router.routes()
        if route.resource is not None
    }
    described = {
        (method.upper(), path.rstrip("/"))
        for path, item in load_description()["paths"].items()
        for method in item
        if method != "parameters"
    }
    # What answers to HEAD as to GET is described once.
    assert described - served == set()
    assert {(method, path) for method, path in served - described if method != "HEAD"} == set()


@sqlite_only
@pytest.mark.timeout(300)
def test_the_service_does_what_the_description_says(make_service: MakeService) -> None:
    """Hundreds of requests made up from the description, every answer held against it."""
    service = make_service("--metrics")
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json",
            "--max-examples", "25", "--seed", "1", "--workers", "1",
            # What it calls valid or not leaves out what JSON Schema cannot say of headers.
            "--exclude-checks", "positive_data_acceptance,negative_data_rejection",
            "--generation-database", "none",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=service_environment(SCHEMATHESIS_HOOKS="tests.web.describing_hooks"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
