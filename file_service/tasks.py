"""Work that must not be left half-way, and work that is done for many at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakSet

Item = TypeVar("Item")
Parameters = ParamSpec("Parameters")
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


class _Lasting(asyncio.Future[Result]):
    """A future that cannot be cancelled: whoever awaits it, and is, learns of that at its end."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


def in_executor(
    executor: Executor,
    function: Callable[Parameters, Result],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> "asyncio.Future[Result]":
    """Run `function` in a thread, from now on and to its end, as `to_its_end` has it.

    Two turns of the loop sooner than that: nothing stands between the thread and who awaits it.
    """
    loop = asyncio.get_running_loop()
    outcome: _Lasting[Result] = _Lasting(loop=loop)

    def run() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  # told to whoever awaits it
            loop.call_soon_threadsafe(outcome.set_exception, error)
        else:
            loop.call_soon_threadsafe(outcome.set_result, result)

    _under_way.add(outcome)
    executor.submit(run)
    return outcome


async def wait_for_all(seconds: float) -> None:
    """Wait until nothing of this loop is under way any more, but not longer than `seconds`."""
    loop = asyncio.get_running_loop()
    while tasks := [task for task in _under_way if task.get_loop() is loop and not task.done()]:
        started = loop.time()
        await asyncio.wait(tasks, timeout=seconds)
        seconds -= loop.time() - started
        if seconds <= 0:
            return


@dataclass(frozen=True, slots=True)
class _Wish(Generic[Item, Result]):
    """What somebody waits for, since when, and what comes of it."""

    item: Item
    asked_at: float
    outcome: "asyncio.Future[Result]"

    def settle(self, outcome: Result | BaseException) -> None:
        """Tell whoever waits, unless nobody does any more."""
        if self.outcome.done():
            return
        if isinstance(outcome, BaseException):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class TurnNotCome(TimeoutError):
    """Nothing was done for whoever waited: others took too long."""


class Together(Generic[Item, Result]):
    """Does for many at once what they ask for at the same time.

    Whoever comes while others are being served waits for the next turn, with all who come
    meanwhile. `serve` is given their items, at most `most`, and returns an outcome for each: a
    result or an error. Of its turns, `turns` may run at once. Whoever has waited for longer than
    `patience` seconds when a turn begins gets TurnNotCome.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        most: int,
        turns: int = 1,
        patience: float = inf,
    ) -> None:
        self._serve = serve
        self._most = most
        self._patience = patience
        self._free = turns
        self._waiting: deque[_Wish[Item, Result]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Result:
        """Have `item` served; return its result, or raise its error."""
        loop = asyncio.get_running_loop()
        wish: _Wish[Item, Result] = _Wish(item, loop.time(), loop.create_future())
        self._waiting.append(wish)
        if self._free:
            self._free -= 1
            task = asyncio.create_task(self._serve_all())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await wish.outcome

    async def _serve_all(self) -> None:
        try:
            while self._waiting:
                count = min(self._most, len(self._waiting))
                await self._take_turn([self._waiting.popleft() for _ in range(count)])
        finally:
            # Here and not when the task is done: who comes between the two would wait for nobody.
            self._free += 1

    async def _take_turn(self, asked: Sequence["_Wish[Item, Result]"]) -> None:
        before = asyncio.get_running_loop().time() - self._patience
        for wish in asked:
            if wish.asked_at < before:
                wish.settle(TurnNotCome())
        wishes = [wish for wish in asked if not wish.outcome.done()]
        if not wishes:
            return
        try:
            outcomes = await self._serve([wish.item for wish in wishes])
        except BaseException as error:  # noqa: BLE001  # told to everybody who waits for it
            outcomes = [error] * len(wishes)
        for wish, outcome in zip(wishes, outcomes, strict=True):
            wish.settle(outcome)
