"""Work that must not be left half-way, also when whoever waits for it is cancelled."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

Result = TypeVar("Result")

# What is still under way, so that a loop that ends can wait for it.
_under_way: WeakSet["asyncio.Future[Any]"] = WeakSet()


async def to_its_end(work: Awaitable[Result]) -> Result:
    """Await `work` to its end; a cancellation, or several, take effect only then.

    The work's own outcome is lost to who was cancelled: it has to settle its errors itself.
    """
    task = asyncio.ensure_future(work)
    _under_way.add(task)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # looked at, or asyncio complains that nobody did
    raise asyncio.CancelledError


async def wait_for_all(seconds: float) -> None:
    """Wait until nothing of this loop is under way any more, but not longer than `seconds`."""
    loop = asyncio.get_running_loop()
    while tasks := [task for task in _under_way if task.get_loop() is loop and not task.done()]:
        started = loop.time()
        await asyncio.wait(tasks, timeout=seconds)
        seconds -= loop.time() - started
        if seconds <= 0:
            return
