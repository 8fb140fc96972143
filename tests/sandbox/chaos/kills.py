"""Who is killed, and when: after so many runs have begun, and a moment later; all of it follows from the seed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import psutil

from tests.sandbox.chaos.stack import RunnerStack
from tests.sandbox.traces import Traces


class Victim(StrEnum):
    """What gets a SIGKILL."""

    SERVICE = "service"
    BROKER = "broker"
    BOTH = "service and broker"
    ZYGOTE = "zygote"
    GATEWAY = "gateway"


_WEIGHTS: Final = {Victim.SERVICE: 5, Victim.BROKER: 4, Victim.BOTH: 2, Victim.GATEWAY: 1}
_OF_ZYGOTE: Final = 2


def schedule(seed: int, runs: int, every: int, *, has_zygote: bool = False) -> Iterator[tuple[int, float, Victim]]:
    """(after this many runs have begun, seconds to wait then, who), in order; about one in `every` runs."""
    chance = random.Random(f"{seed}/kills")
    weights = {**_WEIGHTS, **({Victim.ZYGOTE: _OF_ZYGOTE} if has_zygote else {})}
    at = 0
    while (at := at + chance.randint(every // 2, every + every // 2)) < runs - every // 2:
        (victim,) = chance.choices(list(weights), list(weights.values()))
        yield at, chance.uniform(0, 0.3), victim


class Killer:
    """Follows a schedule as runs begin."""

    def __init__(self, stack: RunnerStack, kills: Iterator[tuple[int, float, Victim]]) -> None:
        self._stack = stack
        self._kills = kills
        self._begun = 0
        self._more = asyncio.Event()
        self._is_up = asyncio.Event()
        self._is_up.set()
        self.done: Counter[str] = Counter()
        self.saw_work = 0
        """How many of the kills met runs that were under way: more than warm guests."""

    async def begun(self, number: int) -> None:
        """A run begins: at once, unless the sandbox is known to be away; else there would be refusals and nothing else."""
        await self._is_up.wait()
        self._begun = max(self._begun, number)
        self._more.set()

    async def work(self) -> None:
        """Until the schedule ends."""
        for at, pause_s, victim in self._kills:
            while self._begun < at:
                self._more.clear()
                await self._more.wait()
            await asyncio.sleep(pause_s)
            Traces.take()  # knows the broker that is about to go
            self.saw_work += bool(self._stack.more_than_warm())
            self._is_up.clear()
            await self._kill(victim, at)
            self.done[victim] += 1
            await self._stack.sandbox_ready()
            self._is_up.set()

    async def _kill(self, victim: Victim, at: int) -> None:
        broker = self._stack.broker()
        if victim is Victim.GATEWAY:
            workers = sorted(self._stack.gateway_workers())
            os.kill(workers[at % len(workers)], signal.SIGKILL)
            return
        if victim is Victim.ZYGOTE:
            _end(self._stack.zygote())
            return
        if victim in (Victim.BROKER, Victim.BOTH):
            _end(broker)
        if victim in (Victim.SERVICE, Victim.BOTH):
            await self._stack.kill("sandbox")
            self._stack.start_sandbox()


def _end(process: psutil.Process | None) -> None:
    if process is not None:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
