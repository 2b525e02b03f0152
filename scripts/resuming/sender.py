"""Sends files so that a run that was interrupted, or a connection that broke, is gone on with."""

import asyncio
import os
import random
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import aiofiles
import aiohttp
from aiofiles.threadpool.binary import AsyncFileIO
from tqdm import tqdm

from resuming.client import CONNECT_SECONDS, Body, Client, Explain, Failed, Gone, Passing, find_id
from resuming.memory import Entry, Memory, Part, choose_file

Tell = Callable[[str], None]
"""Whoever is to know a file's id."""

FIRST_WAIT = 0.5  # seconds; each further one is twice as long
LONGEST_WAIT = 30.0

# Less than this is not worth an upload of its own.
SMALLEST_PART = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How files are sent: `retries` attempts without progress, `parallel` parts of one at once."""

    url: str
    chunk_size: int
    parallel: int = 1
    retries: int = 10
    state: Path | None = None


class Attempts:
    """How often it has been tried since there was progress."""

    def __init__(self, retries: int, tell: Callable[[str], None]) -> None:
        self._retries = retries
        self._tell = tell
        self._failed = 0
        self._best = 0

    def see(self, offset: int) -> None:
        """Take note of bytes that have arrived."""
        if offset > self._best:
            self._best, self._failed = offset, 0

    async def wait(self, error: Exception) -> None:
        """Wait before the next attempt, ever longer; Failed where there is none."""
        if self._failed >= self._retries:
            raise Failed(str(error)) from error
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0**self._failed)
        self._failed += 1
        seconds = random.uniform(longest / 2, longest)  # noqa: S311  # so that not all come at once
        if isinstance(error, Passing):
            seconds = max(seconds, error.seconds)
        self._tell(f"{error}; trying again in {seconds:.1f} s")
        await asyncio.sleep(seconds)


class Digest:
    """The SHA-256 of a file, as far as its bytes have passed in order."""

    def __init__(self) -> None:
        self.position = 0
        self._hash = sha256()

    def update(self, offset: int, chunk: bytes) -> None:
        """Take in what is new of a chunk that lies at `offset`."""
        if offset <= self.position < offset + len(chunk):
            self._hash.update(chunk[self.position - offset :])
            self.position = offset + len(chunk)

    def digest(self) -> bytes:
        """Return the digest of the bytes up to `position`."""
        return self._hash.digest()


class Sender:
    """Sends one file after the other."""

    def __init__(self, options: Options, explain: Explain) -> None:
        self._options = options
        self._explain = explain
        # One memory for all files where it was named, else each has its own.
        self._shared = Memory(options.state) if options.state else None

    def __enter__(self) -> Self:
        if self._shared:
            self._shared.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._shared:
            self._shared.__exit__(*error)

    async def send(self, path: Path, tell: Tell) -> None:
        """Send a file, or the rest of it, and tell its id, or raise Failed."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
        try:
            with self._remember(path) as memory:
                async with aiohttp.ClientSession(timeout=timeout) as session:
                    client = Client(session, self._options.url, self._explain)
                    await Transfer(path, client, memory, self._options).run(tell)
        except OSError as error:
            raise Failed(f"cannot read {path}: {self._explain(error)}") from error

    def _remember(self, path: Path) -> AbstractContextManager[Memory]:
        if self._shared:
            return nullcontext(self._shared)
        return Memory(choose_file(path, self._options.url))


class Transfer:
    """The way of one file to the server."""

    def __init__(self, path: Path, client: Client, memory: Memory, options: Options) -> None:
        self._path = path
        self._client = client
        self._memory = memory
        self._options = options
        self._key = f"{options.url} {path.absolute()}"
        self._digest = Digest()
        self._offsets: dict[int, int] = {}

    async def run(self, tell: Tell) -> None:
        """Send it, and tell its id before anything of it is forgotten."""
        entry = await self._recall()
        with self._open_bar(entry.size) as bar:
            self._bar = bar
            if len(entry.parts) == 1:
                await self._send_part(entry, entry.parts[0], self._path.name)
                entry.url = entry.parts[0].url
            elif entry.url is None:
                entry.url = await self._send_parts(entry)
                self._memory.keep(self._key, entry)  # or it would be put together twice
            url = entry.url or ""
            await self._check(entry, url)
        tell(find_id(url))
        self._memory.forget(self._key)

    # ── what is there ──

    async def _recall(self) -> Entry:
        """Return where to go on, or how to begin where nothing is known of this very file."""
        found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Failed(f"{self._path} is no regular file, which alone can be gone on with")
        entry = self._memory.find(self._key)
        if entry and (entry.size, entry.mtime_ns) == (found.st_size, found.st_mtime_ns):
            return entry
        if entry:
            self._tell("the file has changed: it is sent anew")
            await self._give_up(entry)
        entry = Entry(found.st_size, found.st_mtime_ns)
        count = max(1, min(self._options.parallel, found.st_size // SMALLEST_PART))
        bounds = [found.st_size * index // count for index in range(count + 1)]
        entry.parts = [Part(*span) for span in pairwise(bounds)]
        return entry

    async def _give_up(self, entry: Entry) -> None:
        """Take away what the server has of an upload that nobody goes on with, and forget it.

        What is a file already stays: its id may have been told.
        """
        for part in entry.parts:
            with suppress(Passing, Gone, Failed):
                if part.url and (len(entry.parts) > 1 or await self._is_unfinished(part)):
                    await self._client.delete(part.url)
        self._memory.forget(self._key)

    async def _is_unfinished(self, part: Part) -> bool:
        return await self._client.find_offset(part.url or "") < part.end - part.start

    def _open_bar(self, size: int) -> "tqdm[Any]":
        return tqdm(
            desc="".join(each if each.isprintable() else "\ufffd" for each in self._path.name),
            total=size,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            file=sys.stderr,
            disable=sys.stderr is None or None,  # off, too, where that is no terminal
        )

    def _tell(self, message: str) -> None:
        if sys.stderr is not None:
            line = " ".join(f"{self._path}: {message}".split())
            line = "".join(each if each.isprintable() else "\ufffd" for each in line)
            tqdm.write(f"upload.py: {line}", file=sys.stderr)

    def _show(self, part: Part, offset: int) -> None:
        """Move the bar to where the part is; what was there before this run has no rate."""
        before = self._offsets.get(part.start)
        self._offsets[part.start] = offset
        if before is not None:
            self._bar.update(offset - before)
        elif not self._bar.disable:  # else it has none of these
            self._bar.initial += offset
            self._bar.n += offset
            self._bar.refresh()

    # ── sending ──

    async def _send_parts(self, entry: Entry) -> str:
        """Send all parts at once, and have them put together."""
        if not entry.is_sent:
            async with _Together() as group:
                for part in entry.parts:
                    group.start(self._send_part(entry, part, None))
            entry.is_sent = True  # what is said now may be heard, and its answer lost
            self._memory.keep(self._key, entry)
        urls = [part.url or "" for part in entry.parts]
        attempts = Attempts(self._options.retries, self._tell)
        while True:
            try:
                return await self._client.concatenate(urls, self._path.name)
            except Passing as error:
                await attempts.wait(error)
            except (Gone, Failed) as error:
                await self._give_up(entry)
                raise Failed(f"{error}; started again, it is sent anew") from error

    async def _send_part(self, entry: Entry, part: Part, name: str | None) -> None:
        """Send a span of the file until all of it is there."""
        attempts = Attempts(self._options.retries, self._tell)
        size = part.end - part.start
        while True:
            try:
                offset = await self._begin(entry, part, name)
                attempts.see(offset)
                self._show(part, offset)
                if offset < size:
                    offset = await self._append(part, offset)
                    attempts.see(offset)
                    self._show(part, offset)
                if offset == size:
                    return
                await attempts.wait(Passing(f"the server has {offset} of {size} bytes"))
            except Gone as error:
                part.url = None
                self._memory.keep(self._key, entry)  # no further run has to find that out
                await attempts.wait(error)
            except Passing as error:
                await attempts.wait(error)

    async def _begin(self, entry: Entry, part: Part, name: str | None) -> int:
        """Return where the part goes on; make an upload for it where there is none."""
        if part.url is not None:
            return await self._client.find_offset(part.url)
        part.url = await self._client.create(part.end - part.start, name)
        self._memory.keep(self._key, entry)
        return 0

    async def _append(self, part: Part, offset: int) -> int:
        # Closed here: aiohttp leaves the body where it is once it has taken all it wants.
        async with aiofiles.open(self._path, "rb", buffering=0) as file:
            await file.seek(part.start + offset)
            body = Body(self._read(file, part, offset), part.end - part.start - offset)
            return await self._client.append(part.url or "", offset, body)

    async def _read(self, file: AsyncFileIO, part: Part, offset: int) -> AsyncIterator[bytes]:
        """Yield the part from `offset` on, and show what is sent."""
        position = part.start + offset
        while position < part.end:
            chunk = await file.read(min(self._options.chunk_size, part.end - position))
            if not chunk:
                raise Failed(f"{self._path} has become shorter")
            self._digest.update(position, chunk)
            yield chunk
            position += len(chunk)
            self._show(part, position - part.start)

    # ── the end ──

    async def _check(self, entry: Entry, url: str) -> None:
        """Compare what is stored with the file; take it back where that is something else."""
        attempts = Attempts(self._options.retries, self._tell)
        while True:
            try:
                stored = await self._client.find_digest(url)
                break
            except Passing as error:
                await attempts.wait(error)
            except Gone as error:
                self._memory.forget(self._key)
                raise Failed(f"it was stored, and is gone: {error}") from error
        reason = "it changed while it was sent"
        with suppress(OSError):  # gone, by now
            found = os.stat(self._path)  # noqa: PTH116  # one system call
            if (found.st_size, found.st_mtime_ns) == (entry.size, entry.mtime_ns):
                if stored is None or stored == await self._compute(entry):
                    return
                reason = "what is stored differs from it"
        is_gone = await self._client.delete(url)
        self._memory.forget(self._key)
        left = "nothing is kept" if is_gone else f"it is still there: {url}"
        raise Failed(f"{self._path}: {reason}; {left}")

    async def _compute(self, entry: Entry) -> bytes:
        """Return the file's digest; what has not passed in this run is read now."""
        async with aiofiles.open(self._path, "rb", buffering=0) as file:
            await file.seek(self._digest.position)
            while self._digest.position < entry.size:
                chunk = await file.read(max(self._options.chunk_size, 1024 * 1024))
                if not chunk:
                    break
                self._digest.update(self._digest.position, chunk)
        return self._digest.digest()


class _Together:
    """Tasks that end together: the first that fails ends the others, and is what is raised."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Any) -> None:
        """Begin one of them."""
        self._tasks.append(asyncio.create_task(work))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        try:
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
