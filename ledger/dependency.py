"""Something outside this process that may be away: its state, told once per change, and how long to wait for it.

A dependency starts out unknown. Whoever talks to it calls `up()` or `down(reason)`; only a change is logged, every
failure is counted. `pause()` is the wait before the next try: doubling from 50 ms to 5 s, with jitter, so that
processes that lost a server together do not come back together.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

_FIRST_S: Final = 0.05
_LONGEST_S: Final = 5.0

log = logging.getLogger(__name__)


def backoff_s(attempt: int, jitter: float) -> float:
    """Seconds before the try after `attempt` failures in a row; `jitter` from 0 to 1 takes away up to a half."""
    return min(_LONGEST_S, _FIRST_S * 2.0 ** min(attempt, 20)) * (1 - jitter / 2)


class Dependency:
    """One named server. `state` is "starting", "up", or why it is down; it never holds a credential."""

    def __init__(self, name: str, on_failure: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.state = "starting"
        self._on_failure = on_failure
        self._attempt = 0

    @property
    def is_up(self) -> bool:
        return self.state == "up"

    def up(self) -> None:
        """It answered."""
        if not self.is_up:
            log.info("%s is up", self.name)
            self.state = "up"
        self._attempt = 0

    def down(self, reason: str) -> None:
        """It did not answer, or refused."""
        self._on_failure()
        if self.is_up or self.state == "starting":
            log.warning("%s is down: %s", self.name, reason)
        self.state = reason

    async def pause(self, stop: asyncio.Event) -> None:
        """Wait before the next try; returns at once when `stop` is set."""
        delay = backoff_s(self._attempt, random.random())  # noqa: S311 - spreads load, guards nothing
        self._attempt += 1
        await wait(stop, delay)


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):  # not wait_for, which before Python 3.12 could swallow a cancellation
            await stop.wait()
    except TimeoutError:
        pass
