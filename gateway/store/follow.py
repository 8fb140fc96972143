"""Following Postgres: a connection that is told of changes, and polls, since messages can be lost.

`catch_up` is awaited once it is connected, on each message and at least every `poll_interval` seconds; whatever it raises
ends the connection, and another one is made after 0.1 to 1 s. `pool` is for look-ups meanwhile, None while there is no
connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

_log = logging.getLogger("gateway.snapshot")
_CHANNEL: Final = "tollgate_changes"
_MOST_CONNECTIONS: Final = 4


class Follower:
    """See the module. `deadline` is for each query, in seconds."""

    def __init__(
        self,
        postgres_url: str,
        catch_up: Callable[[asyncpg.Connection], Awaitable[None]],
        *,
        deadline: float,
        poll_interval: float,
    ) -> None:
        self._url = postgres_url
        self._catch_up = catch_up
        self._deadline = deadline
        self._poll_interval = poll_interval
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.pool: asyncpg.Pool | None = None
        self.is_connected = False
        self.errors = 0
        self.fresh_at = 0.0
        """Monotonic seconds of the last time that it had caught up."""

    def start(self) -> None:
        """Begin; goes on by itself until `close`."""
        self._task = asyncio.create_task(self._follow(), name="snapshot-follow")

    async def close(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()  # again, should a library have swallowed it
            await asyncio.wait((self._task,), timeout=0.5)

    async def _follow(self) -> None:
        delay = 0.1
        while True:
            try:
                await self._follow_connected()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the cure is to connect again
                if self.is_connected or delay == 0.1:
                    _log.warning("postgres cannot be followed: %s: %s", type(error).__name__, error)
                self.errors += 1
            self.is_connected = False
            await asyncio.sleep(delay)
            delay = min(1.0, delay * 2) if not self.fresh_at else 0.25

    async def _follow_connected(self) -> None:
        """Connect, catch up, then wait for messages and poll; returns only by raising."""
        deadline = self._deadline
        connection = await asyncpg.connect(self._url, command_timeout=deadline, timeout=deadline)
        try:
            await connection.add_listener(_CHANNEL, self._notified)
            await self._look(connection)
            async with asyncpg.create_pool(
                self._url, min_size=0, max_size=_MOST_CONNECTIONS, command_timeout=deadline, timeout=deadline
            ) as pool:
                self.pool = pool
                self.is_connected = True
                try:
                    while True:
                        try:  # not wait_for: before Python 3.12 it loses a cancellation that meets the event
                            async with asyncio.timeout(self._poll_interval):
                                await self._wake.wait()
                        except TimeoutError:
                            pass
                        self._wake.clear()  # before looking: what is told from here on is looked at again
                        await self._look(connection)
                finally:
                    self.pool = None
                    pool.terminate()
        finally:
            connection.terminate()

    async def _look(self, connection: asyncpg.Connection) -> None:
        await self._catch_up(connection)
        self.fresh_at = time.monotonic()

    def _notified(self, *_: object) -> None:
        self._wake.set()
