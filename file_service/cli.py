"""serve, migrate, gc, scrub: arguments in, one call out; what goes wrong first is one line."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from file_service.app import open_parts, prepare
from file_service.catalogue import schema
from file_service.config import (
    DEFAULT_DATABASE_URL,
    DEFAULT_DIR,
    Settings,
    parse_size,
    read_settings,
)
from file_service.core.upkeep import Collected, Scrubbed
from file_service.errors import FileServiceError, StartupError
from file_service.logs import structured_logs
from file_service.server import serve

Command = Callable[[Settings, argparse.Namespace], int]

SETTINGS = frozenset(Settings.model_fields)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 used wrongly."""
    _occupy_standard_descriptors()
    os.umask(0o027)  # files and catalogue are nobody else's
    # Also before the server listens to it, and also as process 1: stop.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flags = _make_parser().parse_args(arguments)
    command: Command = flags.command
    try:
        named = {name: value for name, value in vars(flags).items() if name in SETTINGS}
        return command(read_settings(**named), flags)
    except FileServiceError as error:
        sys.stderr.write(f"file-service: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0 if command is _serve else 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="file-service",
        description="Files in by HTTP, links out.",
        epilog="Each setting has a variable of the same name, --port is FILE_SERVICE_PORT; "
        "a .env file is read too. Flag over variable over file over default.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        made.add_argument("--database-url", help=f"the catalogue ({DEFAULT_DATABASE_URL})")
        return made

    _add_serve_flags(add("serve", _serve, "start the service"))
    add("migrate", _migrate, "bring the catalogue's schema up to date")
    _add_gc_flags(add("gc", _gc, "remove what nothing refers to"))
    _add_scrub_flags(add("scrub", _scrub, "re-read stored bytes against their digests"))
    return parser


def _add_serve_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", help="port to listen on (8080)")
    add("--dir", help="folder of the files (./data/files)")
    add("--chunk", help="bytes read from disk at a time (256KiB)")
    add("--workers", help="processes on the one port (1)")
    add("--max-size", help="bytes one file may have (unlimited)")
    add("--grace-seconds", help="time for requests to end at a stop (30)")
    add("--idle-seconds", help="silence after which a client is taken for gone (60)")
    add("--upload-seconds", help="time an unfinished upload is kept for (86400)")
    add("--min-rate", help="bytes a second that a body must arrive at; 0 for none (1KiB)")
    add("--head-seconds", help="time for a request's headers to arrive (20)")
    add("--keepalive-seconds", help="time an idle connection is kept (75)")
    add("--max-connections", help="connections at once (a third of the file descriptors)")
    add("--max-header", help="bytes of the request line, and of one header field (16KiB)")
    add("--max-form-parts", help="parts one form may have (100)")
    add("--max-form-fields", help="bytes of all text fields of one form (64KiB)")
    add("--public-url", help="what links begin with, behind a proxy")
    add("--cors-origins", help="origins whose pages may use the service, by commas (none)")
    add("--trusted-proxies", help="proxies whose forwarded addresses are believed (none)")
    add("--forwarded-header", help="which they write: X-Forwarded-For (default) or Forwarded")
    add("--metrics", action="store_const", const=True, help="serve /metrics to everybody (no)")
    add("--log-level", help="debug, info, warning or error (info)")


def _add_gc_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dir", help="folder of the files (./data/files)")
    add("--dry-run", action="store_true", help="report, and remove nothing")
    add("--older-than", type=_seconds, default=timedelta(hours=1), metavar="SECONDS",
        help="leave alone what was written more recently (3600)")  # fmt: skip
    add("--all", action="store_true", help="also when a tenth of all blobs would go")
    add("--json", action="store_true", help="report as JSON")


def _add_scrub_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dir", help="folder of the files (./data/files)")
    add("--rate", type=_bytes, metavar="BYTES", help="read at most so much a second (unlimited)")
    add("--quarantine", action="store_true", help="move corrupt blobs to the folder quarantine/")
    add("--json", action="store_true", help="report as JSON")


def _seconds(text: str) -> timedelta:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return timedelta(seconds=seconds)


def _bytes(text: str) -> int:
    size = parse_size(text)
    if size < 1:
        raise ValueError
    return size


def _serve(settings: Settings, _flags: argparse.Namespace) -> int:
    with structured_logs(settings.log_level):
        identity = asyncio.run(_prepare(settings, is_serving=True))
    serve(settings, identity)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # we have stopped: one more must not kill
    return 0


def _migrate(settings: Settings, _flags: argparse.Namespace) -> int:
    _prepare_embedded(settings)
    asyncio.run(schema.prepare(settings.database_url, upgrade=True))
    return 0


def _gc(settings: Settings, flags: argparse.Namespace) -> int:
    async def collect() -> Collected:
        async with open_parts(settings, await _prepare(settings, is_serving=False)) as parts:
            return await parts.upkeep.collect(
                older_than=flags.older_than, is_dry_run=flags.dry_run, is_all=flags.all
            )

    collected = asyncio.run(collect())
    _report(collected.as_dict(), is_json=flags.json)
    return 0 if collected.is_clean else 1


def _scrub(settings: Settings, flags: argparse.Namespace) -> int:
    async def scrub() -> Scrubbed:
        async with open_parts(settings, await _prepare(settings, is_serving=False)) as parts:
            _, size = await parts.catalogue.count_files()
            # None: no bar where standard error is no terminal.
            with tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
                return await parts.upkeep.scrub(
                    rate=flags.rate, is_quarantining=flags.quarantine, on_progress=bar.update
                )

    scrubbed = asyncio.run(scrub())
    _report(scrubbed.as_dict(), is_json=flags.json)
    return 0 if scrubbed.is_clean else 1


def _report(report: dict[str, Any], *, is_json: bool) -> None:
    if is_json:
        sys.stdout.write(json.dumps(report) + "\n")
        return
    for name, value in report.items():
        shown = len(value) if isinstance(value, list) else value
        sys.stdout.write(f"{name}: {shown}\n")
        if isinstance(value, list):
            sys.stdout.writelines(f"  {key}\n" for key in value)


async def _prepare(settings: Settings, *, is_serving: bool) -> str:
    # Only the defaults are made, and only to serve: a named folder that is absent is a volume that
    # is not mounted, and gc on a new catalogue would find all the world an orphan.
    if is_serving and settings.dir == DEFAULT_DIR:
        _make_folder(settings.dir)
    if is_serving:
        _prepare_embedded(settings)
    elif settings.embedded_path is not None and not settings.embedded_path.is_file():
        raise StartupError(f"--database-url: there is no catalogue {settings.embedded_path}")
    _check_folder(settings)
    return await prepare(settings, is_serving=is_serving)


def _check_folder(settings: Settings) -> None:
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
