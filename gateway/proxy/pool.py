"""Connections to one origin: the freshest idle one first, a new one where there is none, a queue where there are enough.

Bounds: `max_connections` per gateway process; beyond it requests wait in order, at most ten times as many, each no longer
than the connect timeout; past that the answer is 503. An idle connection is kept for `keepalive_ms`, which should be less
than the origin keeps it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

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
            return self._begin(self._opened)
        if self._first_waiting() is not None and len(self._waiting) >= self._max * _QUEUE_FACTOR:
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
        self._connect_for_waiting()

    def sweep(self) -> None:
        """Close what has been idle too long; called by the gateway's ticker."""
        limit = self.clock.now - self._keepalive
        while self._idle and self._idle[0].idle_since < limit:
            self._idle.pop(0).close()

    def close(self) -> None:
        for opening in tuple(self._opening):
            opening.cancel()
        for connection in tuple(self._all):
            connection.abort()

    def _first_waiting(self) -> asyncio.Future[UpstreamConnection] | None:
        """Who has waited longest; those who gave up leave the queue."""
        waiting = self._waiting
        while waiting:
            if not waiting[0].done():
                return waiting[0]
            waiting.popleft()
        return None

    def _begin(self, done: Callable[[asyncio.Task[UpstreamConnection]], None]) -> asyncio.Task[UpstreamConnection]:
        task = asyncio.create_task(self._connect(), name=f"connect {self.url}")
        self._opening.add(task)
        task.add_done_callback(done)
        return task

    def _connect_for_waiting(self) -> None:
        """Where there is room again, who has waited longest gets an attempt."""
        if self._first_waiting() is not None and self.open_connections < self._max:
            self._begin(self._opened_for_waiting)

    def _opened(self, task: asyncio.Task[UpstreamConnection]) -> None:
        self._opening.discard(task)
        self._connect_for_waiting()  # if it failed, its place is free

    def _opened_for_waiting(self, task: asyncio.Task[UpstreamConnection]) -> None:
        self._opening.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._abandoned(task)
            return
        waiting = self._first_waiting()
        if waiting is not None:
            waiting.set_exception(error)
        self._connect_for_waiting()

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
        if not opening.cancelled() and opening.exception() is None and opening.result().is_usable():
            self.release(opening.result())


def _give_up(waiting: asyncio.Future[UpstreamConnection]) -> None:
    if not waiting.done():
        waiting.set_exception(UpstreamBroken(problems.UPSTREAM_BUSY, "all connections are in use", was_connected=False))


class Pools:
    """All pools of a gateway, by origin and settings: they survive a reload of the routes that use them.

    A pool lives as long as a route or an open connection refers to it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: WeakValueDictionary[tuple[str, UpstreamSpec], Pool] = WeakValueDictionary()

    def of(self, spec: UpstreamSpec) -> Balancer:
        """A balancer over the pools of an upstream."""
        members = []
        for target in spec.targets:
            key = (target.url, spec)
            pool = self._pools.get(key)
            if pool is None:
                self._pools[key] = pool = Pool(target.url, spec, self._clock)
            members.append((pool, target.weight))
        return Balancer(members)

    def sweep(self) -> None:
        for pool in tuple(self._pools.values()):
            pool.sweep()

    def close(self) -> None:
        for pool in tuple(self._pools.values()):
            pool.close()


class Balancer:
    """Weighted round robin over the origins of an upstream."""

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
    """Each pool as often as its weight says, at equal distances, and no two begin at the same place."""
    divisor = gcd(*(weight for _, weight in members))
    shares = [weight // divisor for _, weight in members]
    count = len(members)
    turns = [
        ((turn + (index + 0.5) / count) / share, index) for index, share in enumerate(shares) for turn in range(share)
    ]
    return [members[index][0] for _, index in sorted(turns)]
