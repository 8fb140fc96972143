"""Delivery against a Stripe that fails in every way, killed in the middle, with clocks that step: each entry counts once."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from ledger.billing.proof import flaws
from ledger.corrections import NotCorrected, correct
from ledger.ingest import Writer
from ledger.metrics import IngestMetrics
from ledger.partitions import ensure_partitions
from stripefake.app import running
from stripefake.meters import process, report_errors
from stripefake.world import PLATFORM
from tests.ledger.billing.conftest import World
from tests.ledger.billing.test_seal import EVER
from tests.ledger.facts import HOUR_MS, NOW, PROJECT, entry, fact, ms
from tests.machines.play import play

KINDS = ("429", "500", "500_after", "503_html", "drop_before", "drop_after", "truncate")
BOOKS = "usage_events, usage_hourly, usage_daily, billing_slots, billing_entries, billed_meters, stripe_reports"
customers = st.sampled_from(["cus_ada", "cus_bob"])


class Ground:
    """A ledger, a Stripe, and the loop they live in; emptied for each game."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.closing = AsyncExitStack()
        self.runner.run(self._open(url))

    async def _open(self, url: str) -> None:
        fake = await self.closing.enter_async_context(running())
        pool: Any = await asyncpg.create_pool(url, min_size=0, max_size=8)
        self.closing.push_async_callback(pool.close)
        self.pg: asyncpg.Connection = await asyncpg.connect(url)
        self.closing.push_async_callback(self.pg.close, timeout=5)
        await ensure_partitions(self.pg, NOW, 3)
        await self.pg.execute("INSERT INTO projects (id, name, kind) VALUES ($1, 'Acme', 'saas')", PROJECT)
        self.world = World(self.pg, fake, pool, CollectorRegistry())
        self.closing.push_async_callback(self.world.door.close)
        connect = partial(asyncpg.connect, url)
        metrics = IngestMetrics(CollectorRegistry())
        self.writer = Writer(connect, metrics, now_ms=lambda: ms(self.world.now))
        self.closing.push_async_callback(self.writer.close)

    async def clear(self) -> None:
        await self.pg.execute(f"TRUNCATE {BOOKS}, stripe_accounts, stripe_customers")
        self.world.fake.world.reset()
        self.world.door._meters.clear()
        self.world.now = NOW + timedelta(hours=2)
        await self.world.set_up()

    def close(self) -> None:
        self.runner.run(self.closing.aclose())
        self.runner.close()


@pytest.fixture
def ground(postgres_url: str) -> Iterator[Ground]:
    ground = Ground(postgres_url)
    yield ground
    ground.close()


class Delivery(RuleBasedStateMachine):
    """Two customers, two senders. The model: what each customer used, corrections included."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.world, self.ground = ground.world, ground
        self.run = ground.runner.run
        self.run(ground.clear())
        self.half = self.world.fake.world.half(PLATFORM, livemode=True)
        self.senders = [self.world.sender("one"), self.world.sender("two")]
        self.used: Counter[str] = Counter()
        self.events: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {}
        self.was_lost = False
        self.stepped_back_min = 0

    # -- usage

    @initialize(
        uses=st.lists(st.tuples(customers, st.integers(1, 9), st.integers(1, 3)), min_size=2, max_size=6),
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8),
    )
    def begin(self, uses: list[tuple[str, int, int]], kinds: list[str]) -> None:
        """Some usage to tell of, and what goes wrong with the first calls."""
        for use in uses:
            self.use(*use)
        for kind in kinds:
            self.world.fault(kind, times=1)

    @rule(customer=customers, quantity=st.integers(1, 9), hours_ago=st.integers(0, 3))
    def use(self, customer: str, quantity: int, hours_ago: int) -> None:
        event = fact(ms(self.world.now) - hours_ago * HOUR_MS, customer=customer, meters={"requests": quantity})
        self.events.append(event)
        self.counts[event["id"]] = quantity
        self.used[customer] += quantity
        self.run(self.ground.writer.store([entry(event)]))

    @precondition(lambda self: self.events)
    @rule(which=st.integers(0, 99), to=st.none() | st.integers(0, 12))
    def correct(self, which: int, to: int | None) -> None:
        event = self.events[which % len(self.events)]
        wanted = None if to is None else {"requests": to}
        try:
            self.run(self._correct(event, wanted))
        except NotCorrected:
            assert self.counts[event["id"]] == (to or 0)
            return
        self.used[event["customer"]] += (to or 0) - self.counts[event["id"]]
        self.counts[event["id"]] = to or 0

    async def _correct(self, event: dict[str, Any], wanted: dict[str, int] | None) -> None:
        async with self.ground.pg.transaction():
            event_id = uuid.UUID(hex=event["id"])
            await correct(self.ground.pg, PROJECT, "live", event_id, wanted, actor="test", reason="test")

    # -- delivery

    @rule(sender=st.integers(0, 1), kind=st.none() | st.sampled_from(KINDS), times=st.integers(1, 3))
    def send(self, sender: int, kind: str | None, times: int) -> None:
        """Seal what is due and send it; calls may fail, now or later."""
        if kind is not None:
            self.world.fault(kind, times=times)
        self.run(self.world.seal())
        self.run(self.senders[sender].send_due())

    @rule(sender=st.integers(0, 1), turns=st.integers(0, 60))
    def send_and_be_killed(self, sender: int, turns: int) -> None:
        """After so many turns of the loop; what it had claimed stays leased, what it had sent is not written down."""

        async def killed() -> None:
            await self.world.seal()
            task = asyncio.create_task(self.senders[sender].send_due())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.run(killed())

    # -- what goes wrong

    @rule(by=st.timedeltas(timedelta(seconds=1), timedelta(hours=30)))
    def pass_time(self, by: timedelta) -> None:
        self.world.now += by
        self.world.fake.world.clock.advance(by.total_seconds())
        self.report()

    @precondition(lambda self: self.stepped_back_min <= 250)
    @rule(minutes=st.integers(1, 50))
    def step_back(self, minutes: int) -> None:
        """Ours alone, by less than six hours in all (DOUBT); Stripe's time goes on."""
        self.stepped_back_min += minutes
        self.world.now -= timedelta(minutes=minutes)

    @rule(customer=customers, is_lost=st.booleans())
    def lose_customer(self, customer: str, is_lost: bool) -> None:
        """Somebody deletes it at Stripe: events are accepted, and found wrong afterwards."""
        process(self.world.fake.world, self.half)
        self.half.of("customer")[self.world.customers[customer]]["deleted"] = is_lost
        self.was_lost |= is_lost

    def report(self) -> None:
        """What the worker asks for every few minutes."""
        report_errors(self.world.fake.world, self.half)
        self.run(self.world.reports().ask())

    # -- what holds

    def _counted(self) -> Counter[str]:
        """How often each identifier counts at Stripe."""
        process(self.world.fake.world, self.half)
        return Counter(event.identifier for event in self.half.meter_events if event.error is None)

    @invariant()
    def nothing_counts_twice(self) -> None:
        assert max(self._counted().values(), default=0) <= 1

    def teardown(self) -> None:
        for name in self.world.customers.values():
            self.half.of("customer")[name]["deleted"] = False
        self.world.now = datetime.fromtimestamp(self.world.fake.world.clock.now, UTC)  # it is set right again
        self.world.pass_time(timedelta(hours=4))
        for _ in range(3):
            self.run(self.world.seal())
            self.world.pass_time(timedelta(minutes=10))
            self.run(self.world.send_all())
            self.report()
        self.run(self.check())

    async def check(self) -> None:
        pg = self.ground.pg
        assert await flaws(pg, *EVER) == []
        assert await self.world.used() == {name: quantity for name, quantity in self.used.items() if quantity}
        counted, told, dead = self._counted(), Counter[str](), Counter[str]()
        for row in await pg.fetch("SELECT * FROM billing_entries"):
            times = counted.pop(row["identifier"], 0)
            match row["state"]:
                case "sent":
                    assert times == 1, dict(row)
                    told[row["customer_id"]] += int(row["value"])
                case "dead":
                    assert self.was_lost, dict(row)
                    assert times == 0 or row["reason"] == "ambiguous", dict(row)
                    dead[row["customer_id"]] += int(row["value"])
                case state:
                    assert (state, times) == ("netted", 0), dict(row)
        assert counted == {}
        for customer, quantity in self.used.items():
            owed = await pg.fetchval(
                "SELECT coalesce(sum(sealed - counted), 0) FROM billing_slots WHERE customer_id = $1", customer
            )
            assert told[customer] + dead[customer] == quantity + owed
            assert owed >= 0


def test_delivery(ground: Ground) -> None:
    play(lambda: Delivery(ground), games=25, steps=25)
