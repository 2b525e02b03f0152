"""Sends files one after the other, and says of each what became of it."""

import os
import stat
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resuming.client import Explain, Failed
from resuming.sender import Options, Sender, Tell

Send = Callable[[Path, Tell], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Script:
    """What the script has already: a way to send a file in one request, and a voice."""

    send: Callable[[Path], Awaitable[str]]
    failure: type[Exception]
    explain: Explain
    write_id: Callable[[str], None]
    complain: Callable[[str], None]


async def send_all(flags: Namespace, script: Script) -> int:
    """Upload every file and print its id; return the exit status."""
    is_many = len(flags.paths) > 1 or _is_folder(flags.paths[0])
    status = 0

    def leave_out(path: Path) -> None:
        script.complain(f"{path}: left out, it is neither a file nor a folder")

    try:
        with _choose_way(flags, script) as send:
            for path in find_files(flags.paths, leave_out):
                try:
                    await send(path, _name_file(script.write_id, path if is_many else None))
                except (script.failure, Failed) as failure:
                    script.complain(f"{path}: {failure}" if is_many else str(failure))
                    status = 1
    except Failed as failure:
        script.complain(str(failure))
        status = 1
    return status


def _name_file(write_id: Callable[[str], None], path: Path | None) -> Tell:
    """Return what tells an id: with the path, on one line, where there are several."""
    if path is None:
        return write_id
    name = str(path).replace("\n", "\\n")
    return lambda file_id: write_id(f"{file_id}\t{name}")


def find_files(paths: Sequence[Path], leave_out: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the files; of a folder those in it and below, by their names.

    Links below it are followed to files alone.
    """
    for path in paths:
        if not _is_folder(path):
            yield path
            continue
        unreadable: list[OSError] = []
        for folder, folders, names in os.walk(path, onerror=unreadable.append):
            folders.sort()
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for found in (Path(folder, name) for name in sorted([*names, *links])):
                if _is_odd(found):
                    leave_out(found)
                else:
                    yield found
        yield from (Path(error.filename) for error in unreadable)  # to fail as a file does


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False  # and fails as a file does


def _is_odd(path: Path) -> bool:
    """Whether there is something at `path` that has no end, or is followed elsewhere."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


@contextmanager
def _choose_way(flags: Namespace, script: Script) -> Iterator[Send]:
    if not flags.resume:

        async def send_at_once(path: Path, tell: Tell) -> None:
            tell(await script.send(path))

        yield send_at_once
        return
    options = Options(
        url=flags.url if flags.url.endswith("/") else f"{flags.url}/",
        chunk_size=flags.chunk_size,
        parallel=flags.parallel,
        retries=flags.retries,
        state=flags.state,
    )
    with Sender(options, script.explain) as sender:
        yield sender.send
