"""Settings, read once from flags, FILE_SERVICE_* variables and .env; nothing else reads them."""

import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.types import ByteSize
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from file_service.errors import StartupError

PREFIX = "FILE_SERVICE_"
DEFAULT_DIR = Path("data/files")
DEFAULT_DATABASE_URL = "sqlite:///./data/catalogue.db"

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+aiosqlite": "sqlite",  # as it was spelt when that was the driver
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}


def _with_driver(url: Any) -> Any:
    """Accept the URL that every other PostgreSQL client takes, and name our driver in it."""
    scheme, separator, rest = str(url).partition("://")
    scheme = _DRIVERS.get(scheme, scheme)
    if not separator or scheme not in _DRIVERS.values():
        raise ValueError("not a sqlite:/// or postgresql+asyncpg:// URL")
    if scheme == _DRIVERS["postgresql"]:
        rest = re.sub(r"(?<=[?&])sslmode=", "ssl=", rest)  # libpq's word and asyncpg's
    return f"{scheme}://{rest}"


def _without_slash(url: Any) -> Any:
    """Take the address that links begin with; a path below it is kept."""
    if url and re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", str(url)) is None:
        raise ValueError("not an http:// or https:// address without a query")
    return str(url).rstrip("/")


def _check_origin(origin: str) -> str:
    if re.fullmatch(r"https?://[^\s/?#,]+", origin) is None:
        raise ValueError(f"{origin!r} is no origin, like https://app.example, without a path")
    return origin


def _split(value: Any) -> Any:
    return (
        [each.strip() for each in value.split(",") if each.strip()]
        if isinstance(value, str)
        else value
    )


def _none_when_empty(value: Any) -> Any:
    return None if value == "" else value


class Settings(BaseSettings):
    """Everything an operator can set. Sizes are bytes and may carry a unit (`10MiB`)."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    dir: Path = DEFAULT_DIR
    chunk: ByteSize = Field(default=ByteSize(256 * 1024), ge=1024, le=64 * 1024 * 1024)
    database_url: Annotated[str, BeforeValidator(_with_driver)] = Field(
        default=DEFAULT_DATABASE_URL,
        repr=False,  # it may hold a password
    )
    workers: int = Field(default=1, ge=1, le=256)
    max_size: Annotated[ByteSize | None, BeforeValidator(_none_when_empty)] = None
    grace_seconds: float = Field(default=30.0, ge=0)
    idle_seconds: float = Field(default=60.0, gt=0)
    upload_seconds: float = Field(default=86_400.0, gt=0)
    min_rate: ByteSize = Field(default=ByteSize(1024), ge=0)
    head_seconds: float = Field(default=20.0, gt=0)
    keepalive_seconds: float = Field(default=75.0, gt=0)
    max_connections: Annotated[int | None, BeforeValidator(_none_when_empty)] = Field(
        default=None, ge=1
    )
    max_header: ByteSize = Field(default=ByteSize(16 * 1024), ge=1024, le=1024 * 1024)
    max_form_parts: int = Field(default=100, ge=1)
    max_form_fields: ByteSize = Field(default=ByteSize(64 * 1024), ge=0)
    public_url: Annotated[str, BeforeValidator(_without_slash)] = ""
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_check_origin)], ...],
        NoDecode,
        BeforeValidator(_split),
    ] = ()
    trusted_proxies: Annotated[
        tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split)
    ] = ()
    forwarded_header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For"
    metrics: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def embedded_path(self) -> Path | None:
        """The file of the embedded catalogue, None where the catalogue is PostgreSQL."""
        scheme, _, rest = self.database_url.partition(":///")
        return Path(rest.partition("?")[0]) if scheme == _DRIVERS["sqlite"] else None

    @property
    def is_alone(self) -> bool:
        """Whether this is one process, with a catalogue that is nobody else's."""
        return self.workers == 1 and self.embedded_path is not None


def parse_size(text: str) -> int:
    """Return a number of bytes that may carry a unit; ValueError for what is none."""
    return int(TypeAdapter(ByteSize).validate_python(text))


def read_settings(**flags: Any) -> Settings:
    """Flag over variable over .env over default; StartupError in one line for what is unusable."""
    _refuse_unknown_variables()
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise StartupError("; ".join(_explain(each) for each in error.errors())) from None


def _refuse_unknown_variables() -> None:
    # A misspelt variable would silently leave a default in force. FILE_SERVICE_TEST_* belongs to
    # the test suite and may stand in the same environment.
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    names = {name.upper() for name in (*os.environ, *dotenv_values(".env"))}
    unknown = sorted(
        name
        for name in names - known
        if name.startswith(PREFIX) and not name.startswith(PREFIX + "TEST_")
    )
    if unknown:
        raise StartupError(f"unknown variable {', '.join(unknown)}")


def _explain(error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    reason = re.sub(r"^Value error, ", "", error["msg"])
    # The value of a URL is not shown: it may hold a password.
    shown = "" if name == "database_url" else f" {error['input']!r}"
    return f"--{name.replace('_', '-')} ({PREFIX}{name.upper()}){shown}: {reason}"
