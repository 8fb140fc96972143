"""Ingest: entries delivered again, taken over, broken off before and after the commit, amid poison; each counts once."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import asyncpg
import orjson
import pytest
import redis.asyncio as aioredis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from ledger.ids import uuid7_hex
from ledger.ingest import LedgerUnavailable, Writer
from ledger.metrics import IngestMetrics
from ledger.partitions import ensure_partitions
from ledger.stream import Entry, UsageStream
from tests.ledger.facts import DAY_MS, HOUR_MS, NOW, NOW_MS, fact
from tests.machines.play import play

POISON = (
    b"",
    b"{",
    orjson.dumps(fact(NOW_MS + HOUR_MS)),
    orjson.dumps(fact(NOW_MS - 41 * DAY_MS)),
    orjson.dumps(fact(meters={"requests": -1})),
    orjson.dumps(fact(id=uuid7_hex(NOW_MS - 3 * DAY_MS))),
)
numbers = itertools.count(1)
workers = st.integers(0, 1)


class Breaking:
    """A connection that is lost at its `at`-th use: before the server has heard of it, or before its answer is here."""

    def __init__(self, connection: asyncpg.Connection, ground: Ground) -> None:
        self._connection = connection
        self._ground = ground

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._connection, name)
        if name not in ("execute", "fetchval", "copy_records_to_table"):
            return real

        async def use(*args: Any, **options: Any) -> Any:
            ground = self._ground
            if ground.break_at is None:
                return await real(*args, **options)
            ground.break_at -= 1
            if ground.break_at:
                return await real(*args, **options)
            ground.break_at = None
            if ground.is_late:
                await real(*args, **options)
            self._connection.terminate()
            raise ConnectionResetError("lost on purpose")

        return use


class Ground:
    """The servers, the loop, and what goes wrong next; one for all games."""

    def __init__(self, postgres_url: str, redis_url: str) -> None:
        self.runner = asyncio.Runner()
        self.url = postgres_url
        self.redis = aioredis.Redis.from_url(redis_url)
        self.metrics = IngestMetrics(CollectorRegistry())
        self.break_at: int | None = None
        self.is_late = False
        self.writers = [Writer(self._connect, self.metrics, now_ms=lambda: NOW_MS) for _ in range(2)]  # type: ignore[arg-type]
        self.pg: asyncpg.Connection = self.runner.run(asyncpg.connect(postgres_url))
        self.runner.run(ensure_partitions(self.pg, NOW))

    async def _connect(self) -> Any:
        return Breaking(await asyncpg.connect(self.url), self)

    def close(self) -> None:
        async def end() -> None:
            for writer in self.writers:
                await writer.close()
            await self.pg.close(timeout=5)
            await self.redis.aclose()

        self.runner.run(end())
        self.runner.close()


@pytest.fixture
def ground(postgres_url: str, redis_url: str) -> Iterator[Ground]:
    ground = Ground(postgres_url, redis_url)
    yield ground
    ground.close()


class Ingest(RuleBasedStateMachine):
    """Gateways that offer events, two workers on one stream. The model: which events there are, and how much poison."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.ground = ground
        self.run = ground.runner.run
        number = next(numbers)
        self.project, self.stream = f"prj_{number}", f"machine:{number}"
        self.offered: dict[str, dict[str, Any]] = {}
        self.poison = 0
        self.hands: list[tuple[list[Entry], bool]] = [([], False), ([], False)]
        self.consumers = [self._consumer() for _ in range(2)]
        self.run(self.consumers[0].prepare())

    def _consumer(self) -> UsageStream:
        return UsageStream(self.ground.redis, [self.stream], f"c{next(numbers)}", block_ms=1, linger_ms=0)

    def _add(self, raw: bytes) -> None:
        self.run(self.ground.redis.xadd(self.stream, {"e": raw}))

    # -- gateways

    @initialize(minutes=st.lists(st.integers(0, 119), min_size=3, max_size=6), idem=st.sampled_from([None, "x"]))
    def begin(self, minutes: list[int], idem: str | None) -> None:
        for n in minutes:
            self.offer(n, "cus_a", 1, idem)

    @rule(
        minutes=st.integers(0, 119),
        customer=st.sampled_from(["cus_a", "cus_b"]),
        quantity=st.integers(0, 3),
        idem=st.sampled_from([None, None, "x", "y"]),
    )
    def offer(self, minutes: int, customer: str, quantity: int, idem: str | None) -> None:
        at = NOW_MS - minutes * 60_000 - len(self.offered)
        meters = {"requests": 1, "tokens": quantity}
        event = fact(at, project=self.project, customer=customer, meters=meters, idem=idem)
        self.offered[event["id"]] = event
        self._add(orjson.dumps(event))

    @precondition(lambda self: self.offered)
    @rule(which=st.integers(0, 99))
    def offer_again(self, which: int) -> None:
        """A settlement whose reply was lost."""
        self._add(orjson.dumps(list(self.offered.values())[which % len(self.offered)]))

    @rule(raw=st.sampled_from(POISON))
    def offer_poison(self, raw: bytes) -> None:
        self.poison += 1
        self._add(raw)

    # -- workers

    @rule(worker=workers, most=st.integers(1, 5))
    def read(self, worker: int, most: int) -> None:
        if not self.hands[worker][0]:
            self.hands[worker] = (self.run(self.consumers[worker].read(most)), False)

    @rule(worker=workers)
    def take_over(self, worker: int) -> None:
        """What anybody holds, also one that lives."""
        if not self.hands[worker][0]:
            entries, _ = self.run(self.consumers[worker].reclaim(0, 4))
            self.hands[worker] = (entries, False)

    @rule(worker=workers, break_at=st.none() | st.integers(1, 6), is_late=st.booleans())
    def store(self, worker: int, break_at: int | None, is_late: bool) -> None:
        entries, _ = self.hands[worker]
        if not entries:
            return
        self.ground.break_at, self.ground.is_late = break_at, is_late
        stored = True
        try:
            self.run(self.ground.writers[worker].store(entries))
        except LedgerUnavailable:
            stored = False
        self.ground.break_at = None
        self.hands[worker] = (entries, stored)

    @rule(worker=workers)
    def acknowledge(self, worker: int) -> None:
        entries, stored = self.hands[worker]
        if stored:
            self.run(self.consumers[worker].acknowledge(entries))
            self.hands[worker] = ([], False)

    @rule(worker=workers)
    def kill(self, worker: int) -> None:
        """It is started again under another name."""
        self.run(self.ground.writers[worker].close())
        self.consumers[worker] = self._consumer()
        self.hands[worker] = ([], False)

    # -- what holds

    @invariant()
    def the_rollups_are_the_events(self) -> None:
        query = "SELECT coalesce(sum((meters ->> 'tokens')::bigint), 0) FROM usage_events WHERE project_id = $1"
        events = self.run(self.ground.pg.fetchval(query, self.project))
        for table in ("usage_hourly", "usage_daily"):
            summed = f"SELECT coalesce(sum(quantity), 0) FROM {table} WHERE project_id = $1 AND meter = 'tokens'"
            assert self.run(self.ground.pg.fetchval(summed, self.project)) == events, table

    def teardown(self) -> None:
        self.kill(0)
        for _ in range(1_000):
            self.take_over(0)
            self.read(0, 5)
            if not self.hands[0][0]:
                break
            self.store(0, None, False)
            self.acknowledge(0)
        self.run(self.check())

    async def check(self) -> None:
        pg = self.ground.pg
        rows = await pg.fetch(
            "SELECT id, customer_id, at, meters FROM usage_events WHERE project_id = $1", self.project
        )
        stored = {row["id"].hex for row in rows}
        assert len(stored) == len(rows)
        expected = {name for name, event in self.offered.items() if event["idem"] is None}
        groups: dict[tuple[str, str], set[str]] = defaultdict(set)
        for name, event in self.offered.items():
            if event["idem"] is not None:
                groups[event["customer"], event["idem"]].add(name)
        for group in groups.values():  # of those that share a caller's key, one
            [one] = group & stored
            expected.add(one)
        assert stored == expected
        hours: Counter[tuple[int, str]] = Counter()
        for name in expected:
            event = self.offered[name]
            hours[event["at"] // HOUR_MS, event["customer"]] += 1
        found = await pg.fetch(
            "SELECT hour, customer_id, quantity FROM usage_hourly WHERE project_id = $1 AND meter = 'requests'",
            self.project,
        )
        assert {(int(r["hour"].timestamp()) // 3600, r["customer_id"]): int(r["quantity"]) for r in found} == hours
        dead = await pg.fetchval("SELECT count(*) FROM dead_letters WHERE stream = $1", self.stream)
        assert dead == self.poison
        assert await self.ground.redis.xlen(self.stream) == 0


def test_ingest(ground: Ground) -> None:
    play(lambda: Ingest(ground), games=20, steps=25)
