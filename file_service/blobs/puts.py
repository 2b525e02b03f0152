"""Puts: small blobs that arrive together are staged, synced and linked together."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from file_service.blobs.disk import add_link, fsync_folder, make_stage, write_all
from file_service.tasks import Together

MOST = 64  # blobs in one turn

# One turn writes while the other one waits for the disk.
TURNS = 2

# Syncs that wait for the disk at once share one write of the file system's journal.
SYNCS = 16


@dataclass(slots=True)
class _Put:
    """A small blob on its way: its stage's open file, or the error it met."""

    stage: Path
    blob: Path
    content: bytes
    file: BinaryIO | None = None
    error: Exception | None = None

    def take(self, step: Callable[["_Put"], None]) -> None:
        """Take a step, unless one before it has failed."""
        if self.error is not None:
            return
        try:
            step(self)
        except Exception as error:  # noqa: BLE001  # whoever put it is told
            self.error = error
            if self.file is not None:
                self.file.close()


@dataclass(frozen=True, slots=True)
class _Discard:
    """A stage to be taken away, and the file that holds it."""

    stage: Path
    file: BinaryIO | None


class Puts:
    """Puts small blobs, and takes their stages away; `check` comes before the first byte."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._turns = ThreadPoolExecutor(TURNS + 1, "put")
        self._syncs = ThreadPoolExecutor(SYNCS, "sync")
        self._puts: Together[_Put, BinaryIO] = Together(self._put_all, most=MOST, turns=TURNS)
        self._discards: Together[_Discard, bool] = Together(self._discard_all, most=MOST)

    async def put(self, stage: Path, blob: Path, content: bytes) -> BinaryIO:
        """Stage and link a small file, durably; return the stage, held."""
        return await self._puts.ask(_Put(stage, blob, content))

    async def discard(self, stage: Path, file: BinaryIO | None) -> bool:
        """Take a stage away, then close it: bytes nobody wants are not flushed on closing.

        Return whether it was there.
        """
        return await self._discards.ask(_Discard(stage, file))

    def close(self) -> None:
        """End the threads."""
        self._turns.shutdown(wait=False)
        self._syncs.shutdown(wait=False)

    async def _put_all(self, puts: Sequence[_Put]) -> Sequence[BinaryIO | BaseException]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._turns, self._put_together, puts)
        return [put.error or _held(put) for put in puts]

    def _put_together(self, puts: Sequence[_Put]) -> None:
        """Take all of them one step further, and then the next: the disk syncs them together."""
        self._check()
        for put in puts:
            put.take(_stage)
        self._at_once(lambda put: put.take(_sync), puts)
        for put in puts:
            put.take(_link)
        self._at_once(lambda put: put.take(_sync_folder), puts)

    def _at_once(self, step: Callable[[_Put], None], puts: Sequence[_Put]) -> None:
        if len(puts) == 1:
            step(puts[0])
        else:
            list(self._syncs.map(step, puts))

    async def _discard_all(self, asked: Sequence[_Discard]) -> Sequence[bool | BaseException]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._turns, _discard_together, asked)


def _held(put: _Put) -> BinaryIO:
    if put.file is None:
        raise RuntimeError("a put without a stage has an error")
    return put.file


def _stage(put: _Put) -> None:
    put.file = make_stage(put.stage)
    write_all(put.file, put.content, 0)


def _sync(put: _Put) -> None:
    os.fsync(_held(put).fileno())


def _link(put: _Put) -> None:
    add_link(put.stage, put.blob)


def _sync_folder(put: _Put) -> None:
    fsync_folder(put.blob.parent)


def _discard_together(asked: Sequence[_Discard]) -> list[bool | BaseException]:
    return [_discard(each) for each in asked]


def _discard(asked: _Discard) -> bool | BaseException:
    try:
        asked.stage.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        return error
    finally:
        if asked.file is not None:
            asked.file.close()
    return True
