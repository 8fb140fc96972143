"""Periods: a clock that runs over month ends, leap days and changes of zone; requests settled late, tiers changed."""

from __future__ import annotations

import asyncio
import calendar
import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from ledger.ingest import OLDEST_MS, Writer
from ledger.metrics import IngestMetrics
from ledger.partitions import ensure_partitions
from ledger.periods import period_of
from ledger.usage import usage_in_period
from tests.ledger.facts import PROJECT, entry, fact, ms
from tests.machines.play import play

FIRST = datetime(2027, 12, 1, tzinfo=UTC)
MONTHS = 6
"""Of a winter with a leap day, and a change of summer time in March."""
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Kiritimati")
numbers = itertools.count(1)
anchors = st.none() | st.one_of(
    st.datetimes(datetime(2024, 1, 1), datetime(2027, 11, 30), timezones=st.just(UTC)),
    st.sampled_from(
        [datetime(2024, 2, 29, 23, 59, 59, 999000), datetime(2026, 1, 31), datetime(2025, 10, 26, 1, 30)]
    ).map(lambda moment: moment.replace(tzinfo=UTC)),
).map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))


def model_of(anchor: datetime | None, at: datetime) -> tuple[datetime, datetime]:
    """The period that contains `at`, by walking from one to the next."""
    origin = anchor or datetime(2024, 1, 1, tzinfo=UTC)
    start, months = origin, 0
    while True:
        months += 1
        year, month = origin.year + (origin.month - 1 + months) // 12, (origin.month - 1 + months) % 12 + 1
        day = min(origin.day, calendar.monthrange(year, month)[1])
        end = origin.replace(year=year, month=month, day=day)
        if start <= at < end:
            return start, end
        start = end


class Ground:
    """A ledger with partitions for all of the time, and a writer that believes it is `now`."""

    def __init__(self, postgres_url: str) -> None:
        self.runner = asyncio.Runner()
        self.now = FIRST
        self.pg: asyncpg.Connection = self.runner.run(asyncpg.connect(postgres_url))
        self.runner.run(ensure_partitions(self.pg, FIRST, MONTHS + 2))
        self.writer = Writer(
            partial(asyncpg.connect, postgres_url), IngestMetrics(CollectorRegistry()), now_ms=lambda: ms(self.now)
        )
        self.runner.run(self._set_up())

    async def _set_up(self) -> None:
        await self.pg.execute("INSERT INTO projects (id, name, kind) VALUES ($1, 'Acme', 'saas')", PROJECT)
        for tier in ("a", "b"):
            await self.pg.execute(
                "INSERT INTO tiers (id, project_id, mode, name, title) VALUES ($1, $2, 'live', $1, '')", tier, PROJECT
            )
        await self.pg.execute(
            "INSERT INTO billed_meters VALUES ($1, 'live', 'requests', 'api', $2, 'infinity')",
            PROJECT,
            FIRST - timedelta(days=100),
        )

    def close(self) -> None:
        async def end() -> None:
            await self.writer.close()
            await self.pg.close(timeout=5)

        self.runner.run(end())
        self.runner.close()


@pytest.fixture
def ground(postgres_url: str) -> Iterator[Ground]:
    ground = Ground(postgres_url)
    yield ground
    ground.close()


class Periods(RuleBasedStateMachine):
    """One customer. The model: what was used, by the moment it was admitted at."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.ground = ground
        self.run = ground.runner.run
        self.customer = f"cus_{next(numbers)}"
        self.anchor: datetime | None = None
        self.open: list[datetime] = []
        self.used: Counter[datetime] = Counter()
        self.refused = 0

    @initialize(anchor=anchors, days=st.integers(0, 90), requests=st.integers(1, 4))
    def begin(self, anchor: datetime | None, days: int, requests: int) -> None:
        self.anchor = anchor
        self.ground.now = FIRST + timedelta(days=days)
        self.run(self._subscribe())
        self.open = [self.ground.now] * requests

    async def _subscribe(self) -> None:
        pg = self.ground.pg
        await pg.execute("INSERT INTO customers (id, project_id, mode) VALUES ($1, $2, 'live')", self.customer, PROJECT)
        if self.anchor is not None:
            await pg.execute(
                "INSERT INTO subscriptions (id, project_id, mode, customer_id, tier_id, status, anchor_at)"
                " VALUES ($1, $2, 'live', $1, 'a', 'active', $3)",
                self.customer,
                PROJECT,
                self.anchor,
            )

    # -- time

    @rule(by=st.timedeltas(timedelta(milliseconds=1), timedelta(days=20)))
    def pass_time(self, by: timedelta) -> None:
        by -= timedelta(microseconds=by.microseconds % 1000)
        self.ground.now = max(self.ground.now, min(self.ground.now + by, FIRST + timedelta(days=30 * MONTHS)))

    @rule(by_ms=st.integers(-2, 2))
    def come_to_the_edge(self, by_ms: int) -> None:
        """Just before the period ends, at its end, or just after."""
        _, end = model_of(self.anchor, self.ground.now)
        if end < FIRST + timedelta(days=30 * MONTHS):
            self.ground.now = max(self.ground.now, end + timedelta(milliseconds=by_ms))

    # -- use

    @rule()
    def admit(self) -> None:
        self.open.append(self.ground.now)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), quantity=st.integers(0, 5))
    def settle(self, which: int, quantity: int) -> None:
        """However late: it counts when it was admitted, or not at all where that is more than 40 days ago."""
        at = self.open.pop(which % len(self.open))
        event = fact(ms(at), customer=self.customer, meters={"requests": quantity})
        self.run(self.ground.writer.store([entry(event)]))
        if ms(self.ground.now) - ms(at) > OLDEST_MS:
            self.refused += 1
        else:
            self.used[at] += quantity

    @rule(tier=st.sampled_from("ab"))
    def change_tier(self, tier: str) -> None:
        """What was used stays used, in the periods of the same anchor."""
        self.run(
            self.ground.pg.execute("UPDATE subscriptions SET tier_id = $1 WHERE customer_id = $2", tier, self.customer)
        )

    # -- what holds

    @invariant()
    def periods_are_those_of_the_model(self) -> None:
        now = self.ground.now
        start, end = model_of(self.anchor, now)
        assert period_of(self.anchor, now) == (start, end)
        assert period_of(self.anchor, end)[0] == end
        assert period_of(self.anchor, start - timedelta(milliseconds=1))[1] == start
        for zone in ZONES:
            assert period_of(self.anchor, now.astimezone(ZoneInfo(zone))) == (start, end)
        assert self.run(self.ground.pg.fetchval("SELECT period_start($1, $2)", self.anchor, now)) == start

    @invariant()
    def usage_is_in_its_period(self) -> None:
        start, end = model_of(self.anchor, self.ground.now)
        before = model_of(self.anchor, start - timedelta(milliseconds=1)) if start > FIRST else (start, start)
        for first, last in ((start, end), before):
            found = self.run(usage_in_period(self.ground.pg, PROJECT, "live", self.customer, first, last))
            assert found.get("requests", 0) == sum(n for at, n in self.used.items() if first <= at < last)

    def teardown(self) -> None:
        billed: Counter[datetime] = Counter()
        for at, quantity in self.used.items():
            if quantity:
                billed[model_of(self.anchor, at)[0]] += quantity
        rows = self.run(
            self.ground.pg.fetch(
                "SELECT period, sum(counted) AS n FROM billing_slots WHERE customer_id = $1 GROUP BY 1", self.customer
            )
        )
        assert {row["period"]: int(row["n"]) for row in rows} == billed
        dead = self.run(
            self.ground.pg.fetchval(
                "SELECT count(*) FROM dead_letters WHERE convert_from(payload, 'UTF8') LIKE $1", f'%"{self.customer}"%'
            )
        )
        assert dead == self.refused


def test_periods(ground: Ground) -> None:
    play(lambda: Periods(ground), games=25, steps=20)
