"""Work in threads: it comes to its end, whoever gives up, and tells how."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from file_service.tasks import in_executor, wait_for_all


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Work:
    """A call that goes on until it may end."""

    def __init__(self, error: Exception | None = None) -> None:
        self.may_end = threading.Event()
        self.is_done = False
        self._error = error

    def __call__(self) -> str:
        assert self.may_end.wait(30)
        self.is_done = True
        if self._error is not None:
            raise self._error
        return "done"


async def test_what_comes_of_it_is_told(executor: ThreadPoolExecutor) -> None:
    assert await in_executor(executor, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_executor(executor, divmod, 1, 0)


@pytest.mark.parametrize("error", [None, OSError("broken")], ids=["well", "badly"])
async def test_whoever_is_cancelled_learns_of_it_when_the_thread_has_ended(
    executor: ThreadPoolExecutor, error: Exception | None
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    work = Work(error)

    async def wait() -> None:
        await in_executor(executor, work)

    waiting = asyncio.create_task(wait())
    for _ in range(3):  # once more, and again: nothing else happens
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.is_done
    del waiting
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_timeout_takes_effect_when_the_thread_has_ended(
    executor: ThreadPoolExecutor,
) -> None:
    work = Work()
    asyncio.get_running_loop().call_later(0.05, work.may_end.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await in_executor(executor, work)
    assert work.is_done


async def test_the_end_of_the_loop_waits_for_threads_that_nobody_awaits(
    executor: ThreadPoolExecutor,
) -> None:
    work = Work()
    outcome = in_executor(executor, work)
    asyncio.get_running_loop().call_later(0.05, work.may_end.set)
    await wait_for_all(30)
    assert work.is_done
    assert outcome.result() == "done"


def test_a_thread_that_outlives_its_loop_tells_nobody(executor: ThreadPoolExecutor) -> None:
    work = Work()

    async def begin() -> None:
        in_executor(executor, work)

    asyncio.run(begin())
    work.may_end.set()
    executor.shutdown()
    assert work.is_done
