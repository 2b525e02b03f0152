"""Sends files one after the other, and says of each what became of it."""

import os
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resuming.client import Explain, Failed
from resuming.sender import Options, Sender

Send = Callable[[Path], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Script:
    """What the script has already: a way to send a file in one request, and a voice."""

    send: Send
    failure: type[Exception]
    explain: Explain
    write_id: Callable[[str], None]
    complain: Callable[[str], None]


async def send_all(flags: Namespace, script: Script) -> int:
    """Upload every file and print its id; return the exit status."""
    is_many = len(flags.paths) > 1 or flags.paths[0].is_dir()
    status = 0
    try:
        with _choose_way(flags, script) as send:
            for path in find_files(flags.paths):
                try:
                    file_id = await send(path)
                    script.write_id(f"{file_id}\t{path}" if is_many else file_id)
                except (script.failure, Failed) as failure:
                    script.complain(f"{path}: {failure}" if is_many else str(failure))
                    status = 1
    except Failed as failure:
        script.complain(str(failure))
        status = 1
    return status


def find_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files; of a folder those in it and below, by their names."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        unreadable: list[OSError] = []
        for folder, folders, names in os.walk(path, onerror=unreadable.append):
            folders.sort()
            found = (Path(folder, name) for name in sorted(names))
            yield from (each for each in found if each.is_file() or each.is_symlink())
        yield from (Path(error.filename) for error in unreadable)  # to fail as a file does


@contextmanager
def _choose_way(flags: Namespace, script: Script) -> Iterator[Send]:
    if not flags.resume:
        yield script.send
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
