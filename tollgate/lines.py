"""The connections to Postgres of a process, to be cut when it has to end and the server hangs.

Closing a connection in order, or rolling back a transaction that was cancelled, waits for the server. Cut, whoever waits on
one gets an error at once; the server rolls back what was begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol
from weakref import WeakSet

import asyncpg


class Cuttable(Protocol):
    """A connection, or a pool of them."""

    def terminate(self) -> None: ...


class Lines:
    """What was opened and may be open still. `cut` ends all of it, and whatever is opened later at once."""

    def __init__(self) -> None:
        self._connections: WeakSet[Cuttable] = WeakSet()
        self._pools: list[Cuttable] = []
        self._is_cut = False

    def note_pool(self, pool: Cuttable) -> None:
        """A pool that lives as long as the process."""
        self._pools.append(pool)

    def noting(
        self, connect: Callable[[], Awaitable[asyncpg.Connection]]
    ) -> Callable[[], Awaitable[asyncpg.Connection]]:
        """`connect`, with its connections noted."""

        async def connected() -> asyncpg.Connection:
            connection = await connect()
            self._connections.add(connection)
            if self._is_cut:
                connection.terminate()
            return connection

        return connected

    def cut(self) -> None:
        """End them all, without a word to the server."""
        self._is_cut = True
        for line in [*self._connections, *self._pools]:
            try:
                line.terminate()
            except asyncpg.InterfaceError:
                pass  # it is closed already
