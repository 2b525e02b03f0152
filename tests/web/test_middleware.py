import logging
from typing import Any

import pytest
from aiohttp import web

from file_service import errors
from file_service.app import build_app
from file_service.blobs import folder as folders
from file_service.config import Settings
from file_service.errors import FileServiceError
from file_service.web.middleware import STATUS
from tests.conftest import Client, ServiceServer

PROBLEM = "application/problem+json"


def all_errors(kind: type[FileServiceError] = FileServiceError) -> list[type[FileServiceError]]:
    return [kind, *(error for child in kind.__subclasses__() for error in all_errors(child))]


async def problem_of(client: Client, method: str, path: str) -> tuple[web.Response, dict[str, Any]]:
    async with client.request(method, path) as response:
        problem = await response.json(content_type=PROBLEM)
        assert problem["status"] == response.status
        assert problem["request_id"] == response.headers["X-Request-ID"]
        return response, problem  # type: ignore[return-value]  # only its headers are looked at


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing/here", 404, None),
        ("GET", "/files/", 405, "OPTIONS, POST"),
        ("PUT", "/files/", 405, "OPTIONS, POST"),
        ("POST", "/files/x/", 405, "DELETE, GET, HEAD, PUT"),
        ("PATCH", "/files/x", 405, "DELETE, GET, HEAD, PUT"),
        ("DELETE", "/files/x/info", 405, "GET, HEAD"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("PROPFIND", "/readyz", 405, "GET, HEAD"),
    ],
)
async def test_what_the_router_refuses_is_a_problem(
    client: Client, method: str, path: str, status: int, allow: str | None
) -> None:
    response, problem = await problem_of(client, method, path)
    assert problem["status"] == status
    assert response.headers.get("Allow") == allow


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_a_code_of_its_own_and_a_status(kind: type[FileServiceError]) -> None:
    assert [other for other in all_errors() if other.code == kind.code] == [kind]
    assert any(parent in STATUS for parent in kind.__mro__)


@pytest.fixture
async def failing(aiohttp_client: Any, settings: Settings) -> Client:
    """A service with routes that fail in every way a handler can."""
    server = ServiceServer(settings)
    server.app = build_app(settings, folders.prepare(settings.dir))
    raised: dict[str, Exception] = {
        "unexpected": ValueError("secret inside"),
        "timeout": TimeoutError("secret inside"),
        "unknown": errors.OutcomeUnknown(["the-id"], "The catalogue did not confirm."),
        "full": errors.NoRoom("There is no room."),
        "away": errors.CatalogueUnavailable("The catalogue did not answer."),
    }

    async def fail(request: web.Request) -> web.Response:
        raise raised[request.match_info["how"]]

    server.app.router.add_get("/fail/{how}", fail)
    client: Client = await aiohttp_client(server)
    return client


@pytest.mark.parametrize("how", ["unexpected", "timeout"])
async def test_an_unexpected_error_is_a_500_that_tells_nothing_but_is_logged(
    failing: Client, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    response, problem = await problem_of(failing, "GET", f"/fail/{how}")
    assert (problem["status"], problem["type"]) == (500, "/problems/internal")
    assert "secret" not in str(problem)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.__dict__["request_id"] == response.headers["X-Request-ID"]


async def test_an_unknown_outcome_names_the_id_to_ask_for(failing: Client) -> None:
    response, problem = await problem_of(failing, "GET", "/fail/unknown")
    assert (problem["status"], problem["outcome"], problem["id"]) == (503, "unknown", "the-id")
    assert "Retry-After" in response.headers


@pytest.mark.parametrize(("how", "status"), [("full", 507), ("away", 503)])
async def test_trouble_of_ours_keeps_its_status(failing: Client, how: str, status: int) -> None:
    _, problem = await problem_of(failing, "GET", f"/fail/{how}")
    assert problem["status"] == status


@pytest.mark.parametrize("sent", ["abc-123", "01HZX.y_z~", "a" * 128])
async def test_a_sane_request_id_is_taken_over(client: Client, sent: str) -> None:
    async with client.get("/healthz", headers={"X-Request-ID": sent}) as response:
        assert response.headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["", "a" * 129, "two words", "é", "<script>"])
async def test_an_insane_request_id_is_replaced(client: Client, sent: str) -> None:
    async with client.get("/healthz", headers={"X-Request-ID": sent}) as response:
        assert response.headers["X-Request-ID"] != sent
        assert len(response.headers["X-Request-ID"]) == 32


async def test_each_request_is_one_line_without_its_query(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with client.get("/healthz") as response:  # probes are debug lines
        assert response.status == 200
    async with client.get("/nothing?token=secret") as response:
        request_id = response.headers["X-Request-ID"]
    (record,) = [record for record in caplog.records if record.name == "file_service.access"]
    fields = record.__dict__
    assert (fields["method"], fields["path"], fields["status"]) == ("GET", "/nothing", 404)
    assert fields["request_id"] == request_id
    assert fields["size"] == response.content_length
    assert "secret" not in str(fields)


async def test_a_head_is_answered_by_no_bytes(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with client.head("/nothing") as response:
        assert int(response.headers["Content-Length"]) > 0
    (record,) = [record for record in caplog.records if record.name == "file_service.access"]
    assert record.__dict__["size"] == 0
