"""Connections to one origin: the freshest idle one first, a new one where there is none, a queue where there are enough.

Bounds: `max_connections` per gateway process; beyond it requests wait in order, at most ten times as many, each no longer
than the connect timeout; past that the answer is 503. An idle connection is kept for `keepalive_ms`, which should be less
than the origin keeps it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.proxy.upstream import UpstreamBroken, UpstreamConnection
from ledger import problems

if TYPE_CHECKING:
    from gateway.clock import Clock
    from ledger.specs import UpstreamSpec

_QUEUE_FACTOR: Final = 10


class Pool:
    """One origin. `base_path` has no slash at its end; `host_line` is the Host field for it."""

    def __init__(self, url: str, spec: UpstreamSpec, clock: Clock) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or ""
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._ssl = ssl.create_default_context() if self._is_tls else None
        self.base_path = parts.path.rstrip("/").encode()
        self.host_line = b"Host: %b\r\n" % parts.netloc.encode()
        self._connect_timeout = spec.connect_timeout_ms / 1000
        self._keepalive = spec.keepalive_ms / 1000
        self._max = spec.max_connections
        self.clock = clock
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._opening: set[asyncio.Task[UpstreamConnection]] = set()
        self._waiting: deque[asyncio.Future[UpstreamConnection]] = deque()

    @property
    def open_connections(self) -> int:
        return len(self._all) + len(self._opening)

    def idle(self) -> UpstreamConnection | None:
        """The idle connection used last, or None. No I/O."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_usable():
                return connection
        return None

    def open(self) -> asyncio.Future[UpstreamConnection]:
        """A future connection: a new one, or, when there are enough, the next that is released.

        Fails with UpstreamBroken. Who stops waiting for it calls `abandon`.
        """
        if self.open_connections < self._max:
            task = asyncio.create_task(self._connect(), name=f"connect {self.url}")
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            return task
        if len(self._waiting) >= self._max * _QUEUE_FACTOR:
            raise UpstreamBroken(problems.UPSTREAM_BUSY, "all connections are in use", was_connected=False)
        waiting: asyncio.Future[UpstreamConnection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        asyncio.get_running_loop().call_later(self._connect_timeout, _give_up, waiting)
        return waiting

    def abandon(self, opening: asyncio.Future[UpstreamConnection]) -> None:
        """Nobody waits for this connection any more; it becomes an idle one when it is there."""
        opening.add_done_callback(self._abandoned)

    def release(self, connection: UpstreamConnection) -> None:
        """A connection is between exchanges again."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(connection)
                return
        connection.idle_since = self.clock.now
        self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting and self.open_connections < self._max:
            task = asyncio.create_task(self._connect(), name=f"connect {self.url}")
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            self.abandon(task)

    def sweep(self) -> None:
        """Close what has been idle too long; called by the gateway's ticker."""
        limit = self.clock.now - self._keepalive
        while self._idle and self._idle[0].idle_since < limit:
            self._idle.pop(0).close()

    def close(self) -> None:
        for connection in tuple(self._all):
            connection.abort()

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                    server_hostname=self._host if self._is_tls else None,
                )
        except TimeoutError:
            raise UpstreamBroken(problems.UPSTREAM_TIMEOUT, "no connection in time", was_connected=False) from None
        except (OSError, ssl.SSLError) as error:
            raise UpstreamBroken(problems.UPSTREAM_UNREACHABLE, str(error), was_connected=False) from error
        self._all.add(connection)
        return connection

    def _abandoned(self, opening: asyncio.Future[UpstreamConnection]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.release(opening.result())


def _give_up(waiting: asyncio.Future[UpstreamConnection]) -> None:
    if not waiting.done():
        waiting.set_exception(UpstreamBroken(problems.UPSTREAM_BUSY, "all connections are in use", was_connected=False))


class Pools:
    """All pools of a gateway, by origin and settings: they survive a reload of the routes that use them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: dict[tuple[str, UpstreamSpec], Pool] = {}

    def of(self, spec: UpstreamSpec) -> Balancer:
        """A balancer over the pools of an upstream."""
        members = []
        for target in spec.targets:
            key = (target.url, spec)
            if key not in self._pools:
                self._pools[key] = Pool(target.url, spec, self._clock)
            members.append((self._pools[key], target.weight))
        return Balancer(members)

    def sweep(self) -> None:
        for key, pool in tuple(self._pools.items()):
            pool.sweep()
            if not pool.open_connections:
                del self._pools[key]  # a route that still uses it keeps it; a changed one has a new pool

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


class Balancer:
    """Smooth weighted round robin over the origins of an upstream."""

    __slots__ = ("_order", "_turn")

    def __init__(self, members: list[tuple[Pool, int]]) -> None:
        self._order = _interleave(members)
        self._turn = 0

    def next(self) -> Pool:
        order = self._order
        if len(order) == 1:
            return order[0]
        self._turn = turn = (self._turn + 1) % len(order)
        return order[turn]


def _interleave(members: list[tuple[Pool, int]]) -> list[Pool]:
    """Each pool as often as its weight says, spread out evenly (nginx's smooth weighted round robin)."""
    if len(members) == 1:
        return [members[0][0]]
    total = sum(weight for _, weight in members)
    current = [0] * len(members)
    order = []
    for _ in range(total):
        for index, (_, weight) in enumerate(members):
            current[index] += weight
        best = max(range(len(members)), key=lambda i: current[i])
        current[best] -= total
        order.append(members[best][0])
    return order
