"""Real parts of ours in which one call breaks, or halts; a stream in a test's hands."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any


class Failing:
    """Passes everything on to `part`, but the call named `on` raises `error` instead.

    `after=True` lets the call happen first: its work is done and its answer is lost.
    """

    def __init__(self, part: object, *, on: str, error: BaseException, after: bool = False) -> None:
        self._part = part
        self._on = on
        self._error = error
        self._after = after

    def repair(self) -> None:
        """Break nothing from now on."""
        self._on = ""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        if name != self._on:
            return method

        async def fail(*args: Any, **kwargs: Any) -> Any:
            if self._after:
                await method(*args, **kwargs)
            raise self._error

        return fail


class Halted:
    """A part of ours in which the call named `on` waits until it may go on."""

    def __init__(self, part: object, on: str) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self._part = part
        self._on = on

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._part, name)
        if name != self._on:
            return method

        async def wait(*args: Any, **kwargs: Any) -> Any:
            self.begun.set()
            await self.go_on.wait()
            return await method(*args, **kwargs)

        return wait


class Arriving:
    """A `models.Stream` of `chunks`, which `is_whole` or goes on with what is sent."""

    def __init__(self, *chunks: bytes, is_whole: bool = True) -> None:
        self.is_nudged = False
        self._chunks = deque(chunks)
        self._is_ended = is_whole
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def send(self, chunk: bytes) -> None:
        """Have a chunk arrive."""
        self._chunks.append(chunk)
        self._changed.set()

    def end(self, error: Exception | None = None) -> None:
        """Have nothing arrive any more."""
        self._is_ended, self._error = True, error
        self._changed.set()

    def nudge(self) -> None:
        """Have what is there come at once."""
        self.is_nudged = True
        self._changed.set()

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        while self._chunks or self.is_nudged or not self._is_ended:
            if self._chunks or self.is_nudged:
                self.is_nudged = False
                yield self._chunks.popleft() if self._chunks else b""
            else:
                self._changed.clear()
                await self._changed.wait()
        if self._error is not None:
            raise self._error
