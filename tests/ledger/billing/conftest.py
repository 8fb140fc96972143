"""A ledger that bills requests, a Stripe that knows Ada and Bob, and senders between the two on a clock of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import stripe
from prometheus_client import CollectorRegistry

from ledger.billing.billed import connect_stripe, link_customer
from ledger.billing.deliver import Sender
from ledger.billing.door import Door
from ledger.billing.reports import Reports
from ledger.billing.seal import GRACE, seal
from ledger.metrics import BillingMetrics
from stripefake.app import Running, running
from stripefake.meters import units
from stripefake.world import PLATFORM
from tests.ledger.facts import NOW, PROJECT

stripe.enable_telemetry = False


class World:
    """Both sides, and the time it is for them (`now`, moved by `pass_time`)."""

    def __init__(
        self, pg: asyncpg.Connection, fake: Running, pool: Any, registry: CollectorRegistry, timeout_s: float = 10
    ) -> None:
        self.pg = pg
        self.fake = fake
        self.pool = pool
        self.metrics = BillingMetrics(registry)
        self.door = Door({"live": "sk_live_1"}, self.metrics, base_url=fake.url, timeout_s=timeout_s)
        self.now = NOW + timedelta(hours=2)
        self.customers: dict[str, str] = {}
        self.meter = ""

    async def set_up(self) -> None:
        self.pass_time(timedelta(0))
        client = self.door._client("live")
        meter = await client.v1.billing.meters.create_async(
            {"display_name": "API", "event_name": "api", "default_aggregation": {"formula": "sum"}}
        )
        self.meter = meter.id
        await connect_stripe(self.pg, PROJECT, "live", None)
        await self.pg.execute(
            "INSERT INTO billed_meters (project_id, mode, meter, event_name, since)"
            " VALUES ($1, 'live', 'requests', 'api', $2)",
            PROJECT,
            NOW - timedelta(days=60),
        )
        for name in ("cus_ada", "cus_bob"):
            made = await client.v1.customers.create_async({"name": name})
            self.customers[name] = made.id
            await link_customer(self.pg, PROJECT, "live", name, made.id)

    def pass_time(self, span: timedelta) -> None:
        self.now += span
        self.fake.world.clock.set(self.now.timestamp(), is_frozen=True)

    def sender(self, name: str = "one", **options: Any) -> Sender:
        defaults: dict[str, Any] = {"per_second": 1000, "pause": lambda attempt, jitter: 0.0}
        return Sender(self.pool, self.door, self.metrics, name=name, now=lambda: self.now, **(defaults | options))

    def reports(self) -> Reports:
        return Reports(self.pool, self.door, self.metrics, now=lambda: self.now)

    async def seal(self) -> None:
        """Seal what is pending, as if nothing had come in since."""
        await self.pg.execute("UPDATE billing_slots SET pending_since = $1", self.now - GRACE)
        while await seal(self.pg, self.now):
            pass

    async def send_all(self, sender: Sender | None = None, *, tries: int = 50) -> None:
        """Send until nothing is due."""
        sender = sender or self.sender()
        for _ in range(tries):
            if not await sender.send_due() and not await self.count("due"):
                return
            self.pass_time(timedelta(seconds=1))

    async def count(self, state: str) -> int:
        return int(await self.pool.fetchval("SELECT count(*) FROM billing_entries WHERE state = $1", state))

    async def reasons(self) -> list[tuple[str, str | None]]:
        rows = await self.pg.fetch("SELECT state, reason FROM billing_entries ORDER BY id")
        return [(row["state"], row["reason"]) for row in rows]

    def billed(self) -> dict[str, int]:
        """What Stripe counts, by our customers' names."""
        found = units(self.fake.world, self.fake.world.half(PLATFORM, livemode=True)).get("api", {})
        return {name: found[theirs] for name, theirs in self.customers.items() if theirs in found}

    async def used(self) -> dict[str, int]:
        """What the ledger says should be there."""
        rows = await self.pg.fetch("SELECT customer_id, sum(counted) AS n FROM billing_slots GROUP BY 1")
        return {row["customer_id"]: int(row["n"]) for row in rows if row["n"]}

    def fault(self, kind: str, **rule: Any) -> None:
        self.fake.world.faults.add({"kind": kind, "path": "/v1/billing/meter_events", "delay_ms": 700, **rule})


@pytest.fixture
async def world(ledger: asyncpg.Connection, postgres_url: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Its door waits 10 s for Stripe, or what a test parametrizes `world` with, indirectly."""
    pool: Any = await asyncpg.create_pool(postgres_url, min_size=0, max_size=8)
    async with running() as fake:
        world = World(ledger, fake, pool, CollectorRegistry(), getattr(request, "param", 10))
        await world.set_up()
        yield world
        await world.door.close()
    await pool.close()
