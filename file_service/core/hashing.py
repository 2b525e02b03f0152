"""Chunks are hashed by other threads, in order, while whoever passes them on goes on."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import ClassVar

from file_service.models import Chunk, Chunks
from file_service.tasks import to_its_end

# Chunks below this size, in bytes, are hashed where they are: a hop to a thread takes as long.
HERE = 64 * 1024

# Bytes of this process that may be held for being hashed; whoever brings more waits, too.
MOST_WAITING = 8 * 1024 * 1024

# They compute: more of them than processors would wait for each other.
HASHERS = os.cpu_count() or 1

_hashers = ThreadPoolExecutor(HASHERS, "hash")


class Hashing:
    """Has `update` called with every chunk that is given, one after the other.

    Of a chunk that waits there is a view: its giver must not write into its bytes (`models.Chunk`).
    """

    waiting: ClassVar[int] = 0  # bytes that are held, of all of them together
    _lock: ClassVar[Lock] = Lock()

    def __init__(self, update: Callable[[Chunk], None]) -> None:
        self._update = update
        self._views: deque[memoryview] = deque()
        self._is_hashing = False
        self._work: Future[None] = Future()  # done while no chunk waits
        self._work.set_result(None)

    @property
    def is_broken(self) -> bool:
        """Whether a chunk could not be hashed; then none is that comes after it."""
        return self._work.done() and self._work.exception() is not None

    async def follow(self, chunks: Chunks) -> AsyncIterator[Chunk]:
        """Yield `chunks`, which are hashed meanwhile and soon after."""
        async for chunk in chunks:
            self._take(chunk)
            yield chunk
            if Hashing.waiting > MOST_WAITING:
                await self.settle()

    async def settle(self) -> None:
        """Wait until every chunk is hashed; raises what went wrong with one, again and again."""
        work = self._work
        if not work.done():
            await to_its_end(asyncio.wrap_future(work))
        work.result()

    def _take(self, chunk: Chunk) -> None:
        with Hashing._lock:
            is_idle = self._work.done()
            if is_idle:
                self._work.result()  # a failure is final
                self._work = Future()
            self._views.append(memoryview(chunk))
            Hashing.waiting += _count_held(self._views[-1])
        if is_idle and len(chunk) < HERE:
            self._hash_one()
        elif is_idle:
            self._hand_over()

    def _hand_over(self) -> None:
        """Have a thread hash the next chunk; other uploads have their turn before."""
        try:
            _hashers.submit(self._hash_one)
        except RuntimeError:  # no thread can be started, and whether an old one takes it is unknown
            self._hash_one()

    def _hash_one(self) -> None:
        with Hashing._lock:
            if self._is_hashing or not self._views:
                return  # called once too often
            self._is_hashing = True
        failure = None
        try:
            self._update(self._views[0])
        except BaseException as error:  # noqa: BLE001  # told to whoever settles
            failure = error
        if self._go_on(failure):
            self._hand_over()

    def _go_on(self, failure: BaseException | None) -> bool:
        """Let go of the chunk, of all where it failed; return whether there is another one."""
        with Hashing._lock:
            for _ in range(len(self._views) if failure else 1):
                with self._views.popleft() as view:
                    Hashing.waiting -= _count_held(view)
            self._is_hashing = False
            if failure is not None:
                self._work.set_exception(failure)
            elif not self._views:
                self._work.set_result(None)
            return bool(self._views)


def _count_held(view: memoryview) -> int:
    """Return the bytes of all that a view keeps from being used for anything else."""
    return memoryview(view.obj).nbytes
