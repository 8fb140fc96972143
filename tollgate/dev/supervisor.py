"""Keeping a set of children running: start them in order, restart what ends, stop them in reverse order.

A child that ends unasked is started again after a pause that doubles from 0.25 s to 10 s and starts over once the child
has run for 30 s. It is tried forever: a developer who fixes the cause should not have to restart the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tollgate.dev.child import Child

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0
_PROVEN_S: Final = 30.0

log = logging.getLogger(__name__)


class StartError(Exception):
    """A child did not become ready; the message says which and why."""


def pause_s(failures: int) -> float:
    """Seconds before the next start, after so many ends in a row (0 for the first)."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures, 10))


@dataclass(slots=True)
class Unit:
    """One thing to keep running. `start` returns when it is ready, or raises StartError and leaves nothing running.

    `child` is None between an end and the next start.
    """

    name: str
    start: Callable[[], Awaitable[Child]]
    child: Child | None = None
    watch: asyncio.Task[None] | None = None
    is_stopping: bool = False


class Supervisor:
    """The running units, in the order of their start."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self._stopping: Unit | None = None
        self._is_hurried = False

    async def start(self, *units: Unit) -> None:
        """Start units side by side and keep them running from then on. Raises StartError when one does not start."""
        self.units += units
        for result in await asyncio.gather(*map(self._start, units), return_exceptions=True):
            if result is not None:
                raise result

    async def _start(self, unit: Unit) -> None:
        unit.child = await unit.start()
        unit.watch = asyncio.create_task(self._keep_running(unit, unit.child), name=f"watch {unit.name}")

    async def _keep_running(self, unit: Unit, child: Child) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            status = await child.ended()
            if unit.is_stopping:
                return
            unit.child = None
            failures = 0 if time.monotonic() - started > _PROVEN_S else failures
            reason = f"ended with status {status}"
            while unit.child is None:
                log.warning("%s %s; starting it again in %.3g s", unit.name, reason, pause_s(failures))
                await asyncio.sleep(pause_s(failures))
                failures += 1
                try:
                    unit.child = child = await unit.start()
                except StartError as error:
                    reason = f"did not start: {error}"
            log.info("%s runs again (process %d)", unit.name, child.pid)

    def guards(self) -> list[int]:
        """Process ids of the guards: as long as one is there, so is its child."""
        return [unit.child.guard.pid for unit in self.units if unit.child is not None]

    async def stop(self) -> None:
        """Stop all units in reverse order, each once the ones that use it are gone."""
        for unit in self.units:
            unit.is_stopping = True
        for unit in reversed(self.units):
            if unit.watch is None:
                continue
            self._stopping = unit
            if unit.child is None:
                unit.watch.cancel()
            elif self._is_hurried:
                unit.child.hurry()
            else:
                unit.child.ask_to_stop()
            await asyncio.gather(unit.watch, return_exceptions=True)

    def hurry(self) -> None:
        """From now on `stop` gives each only the short grace; the order stays."""
        self._is_hurried = True
        if self._stopping is not None and self._stopping.child is not None:
            self._stopping.child.hurry()
