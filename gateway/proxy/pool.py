"""Connections to one origin: the freshest idle one first, a new one where there is none, a queue where there are enough.

Bounds: `max_connections` per gateway process; beyond it requests wait in order, at most ten times as many, each no longer
than the connect timeout; past that the answer is 503. An idle connection is kept for `keepalive_ms`, which should be less
than the origin keeps it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from gateway.proxy.balance import Balancer, CarefulBalancer
from gateway.proxy.checks import Checks
from gateway.proxy.health import Health, State, Tally, health_of
from gateway.proxy.upstream import UpstreamBroken, UpstreamConnection
from ledger import problems
from ledger.health import PassiveHealthSpec

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.store.nouns import Route
    from ledger.specs import UpstreamSpec

_QUEUE_FACTOR: Final = 10


class Pool:
    """One origin. `base_path` has no slash at its end, `host_line` is the Host field for it.

    `health` is None where nobody watches it.
    """

    def __init__(self, url: str, spec: UpstreamSpec, clock: Clock, health: Health | None = None) -> None:
        parts = urlsplit(url)
        self.url = url
        self.spec = spec
        self.health = health
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

    @property
    def outstanding(self) -> int:
        """Requests under way, and those that wait for a connection."""
        return len(self._all) + len(self._opening) - len(self._idle) + len(self._waiting)

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
            self._failed()
            raise UpstreamBroken(problems.UPSTREAM_TIMEOUT, "no connection in time", was_connected=False) from None
        except (OSError, ssl.SSLError) as error:
            self._failed()
            raise UpstreamBroken(problems.UPSTREAM_UNREACHABLE, str(error), was_connected=False) from error
        self._all.add(connection)
        return connection

    async def connect_plainly(self, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own, outside the pool; lines of at most `limit` bytes can be read from it."""
        name = self._host if self._is_tls else None
        return await asyncio.open_connection(self._host, self._port, ssl=self._ssl, server_hostname=name, limit=limit)

    def _failed(self) -> None:
        if self.health is not None:
            self.health.failed(self.clock.now)

    def _abandoned(self, opening: asyncio.Future[UpstreamConnection]) -> None:
        if not opening.cancelled() and opening.exception() is None and opening.result().is_usable():
            self.release(opening.result())


def _give_up(waiting: asyncio.Future[UpstreamConnection]) -> None:
    if not waiting.done():
        waiting.set_exception(UpstreamBroken(problems.UPSTREAM_BUSY, "all connections are in use", was_connected=False))


class Pools:
    """All pools of a gateway, by origin and settings: they survive a reload of the routes that use them.

    A pool lives as long as a route or an open connection refers to it. `tally` counts what happened to their targets.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: WeakValueDictionary[tuple[str, UpstreamSpec], Pool] = WeakValueDictionary()
        self._checks = Checks()
        self._checked_for: object = None
        self._checked: list[Balancer] = []
        self.tally = Tally()

    def of(self, spec: UpstreamSpec) -> Balancer:
        """A balancer over the pools of an upstream."""
        members = [(self._pool(target.url, spec), target.weight) for target in spec.targets]
        by_load = spec.balance == "least_outstanding"
        if not by_load and all(pool.health is None for pool, _ in members):
            return Balancer(members)
        passive = _passive_of(spec)
        refuses = passive is None or passive.when_none_is_left == "refuse"
        return CarefulBalancer(members, self._clock, self.tally, by_load=by_load, refuses=refuses)

    def _pool(self, url: str, spec: UpstreamSpec) -> Pool:
        pool = self._pools.get((url, spec))
        if pool is None:
            passive, active = _passive_of(spec), spec.active_health
            health = health_of(url, passive, active, self.tally)
            self._pools[url, spec] = pool = Pool(url, spec, self._clock, health)
        return pool

    def check(self, routes: Mapping[str, Route]) -> None:
        """Begin the active checks that are due; `routes` are all there are, as one object until they change."""
        if routes is not self._checked_for:
            self._checked_for = routes
            upstreams = [route.upstream for route in routes.values() if route.upstream.active_health is not None]
            self._checked = [self.of(upstream) for upstream in upstreams]  # held: pools live as long as they are used
        self._checks.tick([p for p in self._pools.values() if p.spec.active_health is not None], self._clock.now)

    def states(self) -> dict[str, list[int]]:
        """How many targets of each upstream that is watched are up, ejected and down."""
        found: dict[str, list[int]] = {}
        for pool in self._pools.values():
            if pool.health is not None:
                found.setdefault(pool.spec.name, [0] * len(State))[pool.health.state] += 1
        return found

    def sweep(self) -> None:
        for pool in tuple(self._pools.values()):
            pool.sweep()

    def close(self) -> None:
        self._checks.close()
        for pool in tuple(self._pools.values()):
            pool.close()


def _passive_of(spec: UpstreamSpec) -> PassiveHealthSpec | None:
    """What is declared; of several targets, something that costs nobody an answer."""
    if spec.passive_health is None and len(spec.targets) > 1:
        return _OF_SEVERAL
    return spec.passive_health


_OF_SEVERAL: Final = PassiveHealthSpec(when_none_is_left="try_all")
