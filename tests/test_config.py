from pathlib import Path

import pytest

from file_service.config import DEFAULT_DATABASE_URL, Settings, read_settings
from file_service.errors import StartupError


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = read_settings()
    assert settings.model_dump() == {
        "host": "127.0.0.1",
        "port": 8080,
        "dir": Path("data/files"),
        "chunk": 256 * 1024,
        "database_url": DEFAULT_DATABASE_URL,
        "workers": 1,
        "max_size": None,
        "grace_seconds": 30.0,
        "idle_seconds": 60.0,
        "upload_seconds": 86_400.0,
        "min_rate": 1024,
        "head_seconds": 20.0,
        "keepalive_seconds": 75.0,
        "max_connections": None,
        "max_header": 16 * 1024,
        "max_form_parts": 100,
        "max_form_fields": 64 * 1024,
        "public_url": "",
        "cors_origins": (),
        "trusted_proxies": (),
        "forwarded_header": "X-Forwarded-For",
        "metrics": False,
        "log_level": "info",
    }


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read_settings().port == 8080
    Path(".env").write_text("FILE_SERVICE_PORT=1\nOTHER=ignored\n")
    assert read_settings().port == 1
    monkeypatch.setenv("FILE_SERVICE_PORT", "2")
    assert read_settings().port == 2
    assert read_settings(port="3").port == 3


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024", 1024), ("64KiB", 65536), ("1MiB", 2**20), ("1MB", 10**6), ("1.5KiB", 1536)],
)
def test_sizes_carry_units(text: str, size: int) -> None:
    assert read_settings(chunk=text).chunk == size
    assert read_settings(max_size=text).max_size == size


def test_an_empty_max_size_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILE_SERVICE_MAX_SIZE", "")
    assert read_settings().max_size is None


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql+asyncpg://u@h:1/n", "postgresql+asyncpg://u@h:1/n"),
        ("postgresql://u:p@h/n?ssl=require", "postgresql+asyncpg://u:p@h/n?ssl=require"),
        ("postgres://h/n", "postgresql+asyncpg://h/n"),
        ("postgres://h/n?a=1&sslmode=require", "postgresql+asyncpg://h/n?a=1&ssl=require"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("sqlite+aiosqlite:///x.db", "sqlite:///x.db"),
    ],
)
def test_a_database_url_is_given_our_driver(given: str, used: str) -> None:
    assert read_settings(database_url=given).database_url == used


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "abc"),
        ("port", "70000"),
        ("port", "-1"),
        ("chunk", "0"),
        ("chunk", "many"),
        ("chunk", "1TiB"),
        ("workers", "0"),
        ("workers", "1.5"),
        ("max_size", "-1x"),
        ("grace_seconds", "-1"),
        ("log_level", "loud"),
        ("database_url", "mysql://secret@h/n"),
        ("database_url", "nonsense"),
    ],
)
def test_an_unusable_value_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FILE_SERVICE_{name.upper()}", value)
    with pytest.raises(StartupError) as raised:
        read_settings()
    message = str(raised.value)
    assert f"FILE_SERVICE_{name.upper()}" in message
    assert f"--{name.replace('_', '-')}" in message
    assert "\n" not in message
    assert "secret" not in message


@pytest.mark.parametrize("where", ["environment", "file"])
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "environment":
        monkeypatch.setenv("FILE_SERVICE_PROT", "1")
    else:
        Path(".env").write_text("FILE_SERVICE_PROT=1\n")
    with pytest.raises(StartupError, match="FILE_SERVICE_PROT"):
        read_settings()


def test_the_test_suites_own_variables_may_stand_beside_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FILE_SERVICE_TEST_DATABASE_URL", "postgresql://x/y")
    read_settings()


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Settings(database_url="postgresql://u:secret@h/n"))
