import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

import pytest

from file_service.config import read_settings
from file_service.errors import StartupError
from tests.conftest import Client

Serve = Callable[..., Awaitable[Client]]
LOCAL = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))


async def remote_of(client: Client, caplog: pytest.LogCaptureFixture, **headers: str) -> str:
    caplog.set_level(logging.INFO)
    caplog.clear()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get("/nothing", headers=named):
        pass
    (line,) = [record for record in caplog.records if record.name == "file_service.access"]
    return str(line.__dict__["remote"])


async def test_forwarded_addresses_are_not_believed_by_default(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("X_Forwarded_For", "Forwarded"):
        assert await remote_of(client, caplog, **{name: "for=1.2.3.4, 1.2.3.4"}) == "127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "remote"),
    [
        ({}, "127.0.0.1"),
        ({"X_Forwarded_For": "1.2.3.4"}, "1.2.3.4"),
        ({"X_Forwarded_For": "6.6.6.6, 1.2.3.4, 10.0.0.9"}, "1.2.3.4"),
        ({"X_Forwarded_For": "10.0.0.1, 10.0.0.2"}, "10.0.0.1"),
        ({"X_Forwarded_For": "nonsense"}, "127.0.0.1"),
        ({"X_Forwarded_For": "2001:db8::1"}, "2001:db8::1"),
        ({"X_Forwarded_For": "6.6.6.6, 1.2.3.4:5678"}, "1.2.3.4"),
        ({"X_Forwarded_For": "6.6.6.6, unknown"}, "127.0.0.1"),
        ({"X_Forwarded_For": "1.2.3.4, ::ffff:10.0.0.1"}, "1.2.3.4"),
        ({"X_Forwarded_For": ", ".join(["10.0.0.1"] * 1000)}, "127.0.0.1"),
        ({"X_Forwarded_For": "1.2.3.4", "Forwarded": "for=6.6.6.6"}, "1.2.3.4"),
        ({"Forwarded": "for=6.6.6.6"}, "127.0.0.1"),
    ],
)
async def test_from_a_trusted_proxy_the_nearest_other_address_is_the_client(
    serve: Serve, caplog: pytest.LogCaptureFixture, headers: dict[str, str], remote: str
) -> None:
    client = await serve(trusted_proxies=LOCAL)
    assert await remote_of(client, caplog, **headers) == remote


@pytest.mark.parametrize(
    ("value", "remote"),
    [
        ("for=1.2.3.4;proto=https", "1.2.3.4"),
        ('for="[2001:db8::1]:4711"', "2001:db8::1"),
        ("for=6.6.6.6, for=1.2.3.4;by=x", "1.2.3.4"),
        ("for=6.6.6.6, by=10.0.0.1", "127.0.0.1"),
        ('for=1.2.3.4;host="for=6.6.6.6"', "1.2.3.4"),
        ('for=1.2.3.4;host="a, for=6.6.6.6"', "1.2.3.4"),
        ('for="_hidden"', "127.0.0.1"),
        ("for=6.6.6.6, nonsense", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
async def test_the_standard_header_is_believed_where_it_is_the_one(
    serve: Serve, caplog: pytest.LogCaptureFixture, value: str, remote: str
) -> None:
    client = await serve(trusted_proxies=LOCAL, forwarded_header="Forwarded")
    told = {"Forwarded": value, "X_Forwarded_For": "6.6.6.6"}
    assert await remote_of(client, caplog, **told) == remote


async def test_a_proxy_that_is_not_listed_is_not_believed(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve(trusted_proxies=(ip_network("10.0.0.0/8"),))
    assert await remote_of(client, caplog, X_Forwarded_For="1.2.3.4") == "127.0.0.1"


@pytest.mark.parametrize("url", ["https://files.example.org", "https://example.org/sub/path"])
async def test_links_begin_with_the_public_address(serve: Serve, url: str) -> None:
    client = await serve(public_url=url)
    headers = {"Accept": "application/json", "X-Forwarded-Host": "evil.example", "Host": "evil"}
    async with client.post("/files/", data=b"x", headers=headers) as response:
        file = await response.json()
        assert response.headers["Location"] == f"{url}/files/{file['id']}/"
        assert file["url"] == response.headers["Location"]


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("public_url", "https://x.org/", "https://x.org"),
        ("public_url", "", ""),
        ("cors_origins", "https://a.org, http://b:1", ("https://a.org", "http://b:1")),
        ("trusted_proxies", "127.0.0.1,10.0.0.0/8", (ip_network("127.0.0.1"), LOCAL[1])),
        ("max_connections", "", None),
    ],
)
def test_settings_of_the_outside_are_read(flag: str, text: str, value: object) -> None:
    assert getattr(read_settings(**{flag: text}), flag) == value


@pytest.mark.parametrize(
    ("flag", "text"),
    [("public_url", "x.org"), ("public_url", "https://x?y"), ("trusted_proxies", "everybody")],
)
def test_unusable_settings_of_the_outside_are_refused(flag: str, text: str) -> None:
    with pytest.raises(StartupError):
        read_settings(**{flag: text})
