"""serve and migrate: arguments in, one call out; what goes wrong at the start is one line."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from file_service.catalogue.schema import prepare
from file_service.config import DEFAULT_DATABASE_URL, DEFAULT_DIR, Settings, read_settings
from file_service.errors import StartupError

Command = Callable[[Settings], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 used wrongly."""
    _occupy_standard_descriptors()
    os.umask(0o027)  # files and catalogue are nobody else's
    # Also before the server listens to it, and also as process 1: stop.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flags = vars(_make_parser().parse_args(arguments))
    command: Command = flags.pop("command")
    try:
        command(read_settings(**flags))
    except StartupError as error:
        sys.stderr.write(f"file-service: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="file-service",
        description="Files in by HTTP, links out.",
        epilog="Each flag has a variable of the same name, --port is FILE_SERVICE_PORT; "
        "a .env file is read too. Flag over variable over file over default.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start the service")
    serve.set_defaults(command=_serve)
    _add_catalogue(serve)
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", help="port to listen on (8080)")
    serve.add_argument("--dir", help="folder of the files (./data/files)")
    serve.add_argument("--chunk", help="bytes read from disk at a time (256KiB)")
    serve.add_argument("--workers", help="processes on the one port (1)")
    serve.add_argument("--max-size", help="bytes one file may have (unlimited)")
    serve.add_argument("--grace-seconds", help="time for requests to end at a stop (30)")
    serve.add_argument("--log-level", help="debug, info, warning or error (info)")

    migrate_parser = commands.add_parser("migrate", help="bring the catalogue's schema up to date")
    migrate_parser.set_defaults(command=_migrate)
    _add_catalogue(migrate_parser)
    return parser


def _add_catalogue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database-url", help=f"the catalogue ({DEFAULT_DATABASE_URL})")


def _serve(settings: Settings) -> None:
    # Imported here: migrate needs neither aiohttp nor the rest of the service.
    from file_service.server import serve  # noqa: PLC0415

    _prepare_folder(settings)
    _prepare_embedded(settings)
    asyncio.run(prepare(settings.database_url, upgrade=settings.embedded_path is not None))
    serve(settings)


def _migrate(settings: Settings) -> None:
    _prepare_embedded(settings)
    asyncio.run(prepare(settings.database_url, upgrade=True))


def _prepare_folder(settings: Settings) -> None:
    # Only the default is made: a named folder that is absent is a volume that is not mounted.
    if settings.dir == DEFAULT_DIR:
        _make_folder(settings.dir)
    if not settings.dir.is_dir():
        raise StartupError(f"--dir {settings.dir}: there is no such folder")
    if not os.access(settings.dir, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(f"--dir {settings.dir}: cannot be written")


def _prepare_embedded(settings: Settings) -> None:
    path = settings.embedded_path
    if path is None:
        return
    if settings.database_url == DEFAULT_DATABASE_URL:
        _make_folder(path.parent)
    if not path.parent.is_dir():
        raise StartupError(f"--database-url: there is no folder {path.parent}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"cannot make {folder}: {error.strerror}") from error


def _occupy_standard_descriptors() -> None:
    # Started with a closed standard output, the first file opened would become it.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
