"""What the benchmark asks of any peer: start, be measured, say what was counted, forget it."""

from __future__ import annotations

import time
from typing import ClassVar, Final, NamedTuple

import redis

from tests.bench import cpu
from tests.bench.cases import Case
from tests.bench.ground import CONF, BenchError, Ground
from tests.bench.population import PER_MINUTE, QUOTA, TIGHT_PER_MINUTE, Population
from tollgate.dev.child import Child
from tollgate.dev.embedded import Server
from tollgate.dev.server import free_port

_STILL_S: Final = 3.0
LIMIT_SCRIPT: Final = (CONF / "limit.lua").read_text()
ROOMY: Final = 1
TIGHT: Final = 2
"""Numbers of the two tiers in the peers that are configured by hand; 0 would be no tier."""
TIERS: Final = {ROOMY: (PER_MINUTE, QUOTA), TIGHT: (TIGHT_PER_MINUTE, QUOTA)}


class Counts(NamedTuple):
    """What Redis knows: requests that the quota counters hold, and usage events on the streams."""

    admitted: int
    events: int


class Peer:
    """One proxy. `can` names what it is able to do beyond proxying; a case that needs more is not available for it."""

    name: ClassVar[str]
    title: ClassVar[str]
    can: ClassVar[frozenset[str]] = frozenset()
    child: Child

    def __init__(self) -> None:
        self.port = free_port()
        self.tls_port = free_port()
        self._pids: list[int] = []

    def start(self, ground: Ground) -> None:
        """Start it and wait until it takes connections. Raises BenchError."""
        raise NotImplementedError

    def prepare(self, case: Case) -> None:
        """Called before a case is measured."""

    @property
    def redis_pid(self) -> int | None:
        """The process of its Redis."""
        return None

    def settled(self) -> None:
        """Called once it has served its first requests: all its processes are there."""
        self._pids = cpu.tree(self.child.pid)

    def cpu_s(self) -> tuple[float, float]:
        """Seconds of CPU used so far by its processes, and by its Redis. Raises BenchError."""
        try:
            return cpu.cpu_s(self._pids), cpu.cpu_s([self.redis_pid]) if self.redis_pid else 0.0
        except OSError:
            raise BenchError(f"{self.name}: a process of it ended") from None

    def rss_mb(self) -> float:
        """Resident memory of its processes."""
        return cpu.rss_mb(self._pids)

    def counts(self) -> Counts | None:
        """What was counted since it was last told to forget; None for a peer that does not count."""
        return None

    def forget(self) -> None:
        """Empty counters and streams between two samples."""

    def prime(self, customers: int, rate: float, seconds: float) -> None:
        """Make the first `customers` look as if each had had its share of `rate` requests/s for the last minute."""


class CountingPeer(Peer):
    """A peer with a Redis of its own, in which keys live in HASH keys: text → "tier customer"."""

    quota_pattern: ClassVar[str] = "q:*"
    streams: ClassVar[tuple[str, ...]] = ("usage",)
    server: Server
    redis: redis.Redis
    population: Population

    def start_redis(self, ground: Ground) -> None:
        """Start its Redis and put the population's keys in."""
        self.server = ground.redis(self.name)
        self.redis = redis.Redis.from_url(self.server.url, socket_timeout=30)
        self.population = ground.population
        self.seed()

    def seed(self) -> None:
        """The keys, as whoever issues them would store them."""
        keys = self.population.keys
        for start in range(0, len(keys), 5_000):
            part = range(start, min(start + 5_000, len(keys)))
            tier_of = {i: TIGHT if self.population.is_tight(i) else ROOMY for i in part}
            self.redis.hset("keys", mapping={keys[i].text: f"{tier_of[i]} {self.population.customer(i)}" for i in part})

    @property
    def redis_pid(self) -> int:
        return self.server.pid

    def counts(self) -> Counts:
        """What was counted, once it stands still: the generator stops before its last requests are through."""
        deadline = time.monotonic() + _STILL_S
        before, counts = None, self._counted()
        while (counts != before or counts.admitted != counts.events) and time.monotonic() < deadline:
            time.sleep(0.05)
            before, counts = counts, self._counted()
        return counts

    def _counted(self) -> Counts:
        admitted = 0
        cursor = 0
        while True:
            cursor, names = self.redis.scan(cursor, match=self.quota_pattern, count=5_000)
            if names:
                admitted += sum(int(value or 0) for value in self.redis.mget(names))
            if cursor == 0:
                break
        return Counts(admitted, sum(self.redis.xlen(stream) for stream in self.streams))

    def forget(self) -> None:
        self.counts()  # stands still: nothing from before is counted afterwards
        self.redis.flushall()
        self.seed()
