"""What costs much is asked for less often, and once by however many."""

from __future__ import annotations

import asyncio

import pytest

from admin.web.remembered import Remembered


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "still_good", "over"), [(0.001, 0.019, 0.021), (0.5, 9.9, 10.1), (60.0, 29.0, 31.0)])
async def test_a_figure_is_remembered_by_what_it_cost(cost: float, still_good: float, over: float) -> None:
    clock = Clock()
    figures = Remembered(clock)
    found = []

    async def find() -> int:
        clock.now += cost
        found.append(len(found))
        return found[-1]

    assert await figures.get("x", find) == 0
    ended = clock.now
    clock.now = ended + still_good
    assert await figures.get("x", find) == 0
    clock.now = ended + over
    assert await figures.get("x", find) == 1
    assert await figures.get("y", find) == 2


async def test_asked_for_at_once_it_is_found_once() -> None:
    clock = Clock()
    figures = Remembered(clock)
    calls = 0

    async def find() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        clock.now += 1
        return calls

    assert await asyncio.gather(*(figures.get("x", find) for _ in range(20))) == [1] * 20


async def test_a_failure_is_not_remembered() -> None:
    figures = Remembered(Clock())

    async def fail() -> int:
        raise OSError

    async def find() -> int:
        return 7

    with pytest.raises(OSError):
        await figures.get("x", fail)
    assert await figures.get("x", find) == 7


async def test_only_so_many_are_kept() -> None:
    figures = Remembered(Clock())

    async def find() -> int:
        return 1

    for n in range(2_100):
        await figures.get(n, find)
    assert len(figures._figures) == 2_000
