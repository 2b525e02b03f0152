from collections.abc import Awaitable, Callable

import pytest

from tests.conftest import Client

Serve = Callable[..., Awaitable[Client]]
APP = "https://app.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x"}


@pytest.fixture
async def open_client(serve: Serve) -> Client:
    return await serve(cors_origins=(APP, "http://localhost:3000"), max_size=1000)


async def test_by_default_no_page_of_another_origin_is_let_in(client: Client) -> None:
    async with client.get("/healthz", headers={"Origin": APP}) as response:
        assert not [name for name in response.headers if name.startswith("Access-Control")]
    async with client.options("/files/", headers={"Origin": APP} | PREFLIGHT) as response:
        assert response.status == 200  # of tus, not of CORS


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000"])
async def test_a_listed_origin_may_do_everything(open_client: Client, origin: str) -> None:
    headers = {"Origin": origin} | PREFLIGHT
    for path in ("/files/", "/files/x/", "/files/x/info"):
        async with open_client.options(path, headers=headers) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == origin
            assert "PUT" in response.headers["Access-Control-Allow-Methods"]
            assert "Content-Disposition" in response.headers["Access-Control-Allow-Headers"]
            assert response.headers["Vary"] == "Origin"
    async with open_client.post("/files/", data=b"x", headers={"Origin": origin}) as response:
        assert response.status == 201
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert "Repr-Digest" in response.headers["Access-Control-Expose-Headers"]
        assert response.headers["Vary"] == "Accept, Origin"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", b"", 404),
        ("PATCH", "/files/", b"", 405),
        ("POST", "/files/", b"x" * 2000, 413),
        ("GET", "/files/no-id/", b"", 404),
    ],
)
async def test_a_listed_origin_may_read_errors(
    open_client: Client, method: str, path: str, body: bytes, status: int
) -> None:
    """A 413 without these headers looks like a network failure to the page."""
    headers = {"Origin": APP}
    async with open_client.request(method, path, data=body, headers=headers) as response:
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == APP
        assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", f"{APP}.evil.example", "http://app.example.org",
     "https://sub.app.example.org", APP.upper(), f"{APP}/", ""],
)  # fmt: skip
async def test_any_other_origin_is_told_nothing(open_client: Client, origin: str) -> None:
    async with open_client.get("/healthz", headers={"Origin": origin}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"
    headers = {"Origin": origin} | PREFLIGHT
    async with open_client.options("/files/", headers=headers) as response:
        assert response.status == 200  # of tus, not of CORS
        assert "Access-Control-Allow-Origin" not in response.headers
