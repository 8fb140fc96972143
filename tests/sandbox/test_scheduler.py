"""Turns: shares, caps, bounds and the end of patience."""

from __future__ import annotations

import asyncio
import random

import pytest

from sandbox.scheduler import Bounds, Full, NoTurn, Scheduler


class Work:
    """Takes turns and notes who had them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.order: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def turn(self, project: str, name: str = "") -> None:
        async with self.scheduler.turn(project):
            self.order.append(name or project)
            gate = self.gates.setdefault(name or project, asyncio.Event())
            await gate.wait()

    def end(self, name: str) -> None:
        self.gates.setdefault(name, asyncio.Event()).set()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def work(running: int = 1, per_project: int = 9, waiting: int = 99, each: int = 99, patience: float = 9) -> Work:
    return Work(Scheduler(Bounds(running, per_project, waiting, each, patience)))


async def test_projects_take_turns_however_much_one_asks() -> None:
    made = work()
    names = ["a1", "a2", "a3", "a4", "b1", "c1", "b2"]
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(made.turn(name[0], name)))
        await settle()
    for _ in names:
        made.end(made.order[-1])
        await settle()
    assert made.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]
    await asyncio.gather(*tasks)
    assert made.scheduler.running == made.scheduler.waiting == 0


async def test_a_project_at_its_cap_is_passed_over() -> None:
    made = work(running=2, per_project=1)
    tasks = [asyncio.create_task(made.turn(name[0], name)) for name in ("a1", "a2", "b1", "c1")]
    await settle()
    assert made.order == ["a1", "b1"]
    made.end("b1")
    await settle()
    assert made.order == ["a1", "b1", "c1"]
    for name in ("a1", "c1", "a2"):
        made.end(name)
        await settle()
    await asyncio.gather(*tasks)
    assert made.order[-1] == "a2"


async def test_queues_are_bounded_and_patience_ends() -> None:
    made = work(waiting=2, each=1, patience=0.05)
    first = asyncio.create_task(made.turn("a", "a1"))
    await settle()
    second = asyncio.create_task(made.turn("a", "a2"))
    await settle()
    with pytest.raises(NoTurn) as refused:
        await made.turn("a")
    assert refused.value.why is Full.PROJECT
    third = asyncio.create_task(made.turn("b"))
    await settle()
    with pytest.raises(NoTurn) as refused:
        await made.turn("c")
    assert refused.value.why is Full.ALL
    for task in (second, third):
        with pytest.raises(NoTurn) as refused:
            await task
        assert refused.value.why is Full.PATIENCE
    made.end("a1")
    await first
    assert made.scheduler.running == made.scheduler.waiting == 0


async def test_cancelled_anywhere_no_turn_is_lost() -> None:
    """Random arrivals, ends and cancellations: never more than may run, and in the end everything is free again."""
    chance = random.Random(7)
    scheduler = Scheduler(Bounds(3, 2, 50, 20, 9))
    inside = 0

    async def one() -> None:
        nonlocal inside
        async with scheduler.turn(chance.choice("abc")):
            inside += 1
            assert inside <= 3
            try:
                await asyncio.sleep(chance.random() / 200)
            finally:
                inside -= 1

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(one()))
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() / 300)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if isinstance(r, AssertionError)] == []
    assert scheduler.running == scheduler.waiting == inside == 0
