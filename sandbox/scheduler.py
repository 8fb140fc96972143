"""Who runs next: fair shares between projects, a cap for each, a bounded queue, and an end to waiting.

Projects take turns, one run each; a project that already runs as many as it may is passed over. Within a project it is
first come, first served. Bounds: `running` at once and `running_per_project`; `waiting` in all and `waiting_per_project`.
Beyond them: refused at once. Nobody waits longer than `patience_s`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum


class Full(Enum):
    """Why a run does not get a turn."""

    PROJECT = "the project's queue is full"
    ALL = "every queue is full"
    PATIENCE = "no turn came in time"


class NoTurn(Exception):
    """See `why`."""

    def __init__(self, why: Full) -> None:
        super().__init__(why.value)
        self.why = why


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many of each there may be."""

    running: int
    running_per_project: int
    waiting: int
    waiting_per_project: int
    patience_s: float


class Scheduler:
    """Turns. One event loop only."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # the next project first

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, project: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block ends. Raises NoTurn."""
        await self._wait(project)
        try:
            yield
        finally:
            self._release(project)

    async def _wait(self, project: str) -> None:
        bounds = self._bounds
        if project not in self._waiting and self.running < bounds.running and self._may(project):
            self._running[project] += 1
            return
        queue = self._waiting.get(project, ())
        if len(queue) >= bounds.waiting_per_project:
            raise NoTurn(Full.PROJECT)
        if self.waiting >= bounds.waiting:
            raise NoTurn(Full.ALL)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(turn)
        try:
            async with asyncio.timeout(bounds.patience_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it came as we left
                self._release(project)
            else:
                self._leave(project, turn)
            if isinstance(error, TimeoutError):
                raise NoTurn(Full.PATIENCE) from None
            raise

    def _may(self, project: str) -> bool:
        return self._running[project] < self._bounds.running_per_project

    def _leave(self, project: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(project)
        if queue is not None and turn in queue:  # else it was passed over already, being cancelled
            queue.remove(turn)
            if not queue:
                del self._waiting[project]

    def _release(self, project: str) -> None:
        self._running[project] -= 1
        if not self._running[project]:
            del self._running[project]
        while self.running < self._bounds.running:
            following = next((name for name in self._waiting if self._may(name)), None)
            if following is None:
                return
            queue = self._waiting[following]
            turn = queue.popleft()
            if queue:
                self._waiting.move_to_end(following)
            else:
                del self._waiting[following]
            if turn.cancelled():
                continue
            self._running[following] += 1
            turn.set_result(None)
