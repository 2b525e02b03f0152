"""Work that must not be left half-way, also when whoever waits for it is cancelled."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def to_its_end(work: Awaitable[Result]) -> Result:
    """Await `work` to its end; a cancellation takes effect only then."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # The work's own error, if it has one, is of no use to who was cancelled.
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
