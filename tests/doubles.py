"""Failing: a real part of ours in which one call breaks."""

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
