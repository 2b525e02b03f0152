"""What is done for many at once: who gets a turn, and what each is told."""

import asyncio
from collections.abc import Sequence

from file_service.tasks import Together, TurnNotCome


async def test_whoever_comes_during_a_turn_shares_the_next() -> None:
    turns: list[list[int]] = []

    async def serve(items: Sequence[int]) -> list[int | BaseException]:
        turns.append(list(items))
        await asyncio.sleep(0.01)
        return [item * 2 for item in items]

    together = Together(serve, most=4)
    assert await asyncio.gather(*(together.ask(number) for number in range(7))) == [
        0, 2, 4, 6, 8, 10, 12,
    ]  # fmt: skip
    assert turns == [[0, 1, 2, 3], [4, 5, 6]]


async def test_nobody_waits_for_ever_who_comes_as_a_turn_ends() -> None:
    async def serve(items: Sequence[int]) -> list[int | BaseException]:
        return list(items)

    together = Together(serve, most=4)
    for number in range(1000):
        async with asyncio.timeout(5):
            assert await together.ask(number) == number


async def test_each_is_told_its_own_outcome() -> None:
    async def serve(items: Sequence[int]) -> list[int | BaseException]:
        return [ValueError(item) if item % 2 else item for item in items]

    together = Together(serve, most=9)
    outcomes = await asyncio.gather(*map(together.ask, range(4)), return_exceptions=True)
    assert [repr(each) for each in outcomes] == ["0", "ValueError(1)", "2", "ValueError(3)"]


async def test_a_turn_that_fails_fails_for_all_of_it_and_not_for_the_next() -> None:
    broken = True

    async def serve(items: Sequence[int]) -> list[int | BaseException]:
        if broken:
            raise OSError("broken")
        return list(items)

    together = Together(serve, most=9)
    outcomes = await asyncio.gather(*map(together.ask, range(3)), return_exceptions=True)
    assert [type(each) for each in outcomes] == [OSError] * 3
    broken = False
    assert await together.ask(5) == 5


async def test_whoever_is_cancelled_leaves_the_others_theirs() -> None:
    begun = asyncio.Event()

    async def serve(items: Sequence[int]) -> list[int | BaseException]:
        begun.set()
        await asyncio.sleep(0.05)
        return list(items)

    together = Together(serve, most=9)
    asking = [asyncio.create_task(together.ask(number)) for number in range(3)]
    await begun.wait()
    asking[1].cancel()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert (outcomes[0], outcomes[2]) == (0, 2)
    assert isinstance(outcomes[1], asyncio.CancelledError)


async def test_whoever_has_waited_too_long_is_not_served() -> None:
    served: list[int] = []

    async def serve(items: Sequence[int]) -> list[int | BaseException]:
        await asyncio.sleep(0.2)
        served.extend(items)
        return list(items)

    together = Together(serve, most=1, patience=0.1)
    outcomes = await asyncio.gather(*map(together.ask, range(3)), return_exceptions=True)
    assert outcomes[0] == 0
    assert [type(each) for each in outcomes[1:]] == [TurnNotCome] * 2
    assert served == [0]
