"""Active checks: a GET to each target that asks for it, again and again, from each gateway process.

One task per check under way, held here and named; a check ends within its `timeout_ms`, and the next of the same target
begins no sooner than its `interval_ms` after the last began. Whatever goes wrong is a bad check. At most 64 are under way;
beyond that checks come later, those that have waited longest first.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from gateway.http1.errors import Malformed
from gateway.http1.response import parse_status_line

if TYPE_CHECKING:
    from gateway.proxy.pool import Pool

_log = logging.getLogger("gateway.upstreams")
_LONGEST_LINE: Final = 1024
_JITTER: Final = 0.1
_MOST_AT_ONCE: Final = 64


class Checks:
    """Those of one process."""

    def __init__(self) -> None:
        self._due: WeakKeyDictionary[Pool, float] = WeakKeyDictionary()  # a pool goes with the last route that uses it
        self._running: dict[Pool, asyncio.Task[None]] = {}

    def tick(self, pools: list[Pool], now: float) -> None:
        """Begin what is due; `pools` are all those with active checks."""
        waiting = [pool for pool in pools if pool not in self._running and self._due.get(pool, 0.0) <= now]
        waiting.sort(key=lambda pool: self._due.get(pool, 0.0))
        for pool in waiting[: _MOST_AT_ONCE - len(self._running)]:
            active = pool.spec.active_health
            assert active is not None
            spread = 1 + random.uniform(-_JITTER, _JITTER)  # noqa: S311 - so that processes do not ask in step
            self._due[pool] = now + active.interval_ms / 1000 * spread
            task = asyncio.create_task(_check(pool), name=f"check {pool.url}")
            self._running[pool] = task
            task.add_done_callback(partial(self._ended, pool))

    def close(self) -> None:
        for task in self._running.values():
            task.cancel()

    def _ended(self, pool: Pool, task: asyncio.Task[None]) -> None:
        self._running.pop(pool, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a check of %s failed inside the gateway", pool.url, exc_info=task.exception())


async def _check(pool: Pool) -> None:
    active, health = pool.spec.active_health, pool.health
    assert active is not None
    assert health is not None
    try:
        async with asyncio.timeout(active.timeout_ms / 1000):
            status = await _status_of(pool, active.path.encode())
    except (OSError, TimeoutError, ssl.SSLError, Malformed, ValueError, EOFError):
        status = 0
    health.checked(is_good=status in active.statuses if active.statuses else 200 <= status < 400)


async def _status_of(pool: Pool, path: bytes) -> int:
    """The status that a target answers with. Raises whatever goes wrong."""
    reader, writer = await pool.connect_plainly(_LONGEST_LINE)
    try:
        writer.write(
            b"GET %b%b HTTP/1.1\r\n%bUser-Agent: tollgate-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            % (pool.base_path, path, pool.host_line)
        )
        return parse_status_line((await reader.readuntil(b"\r\n"))[:-2])[1]
    finally:
        writer.transport.abort()
