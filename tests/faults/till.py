"""What Stripe has seen in the end: the product's own sealing and sending, to a Stripe fake, of all that the rounds counted.

Slots are sealed when their hour is over, so this is done once, after all rounds, with a clock that says that the next month
has begun (one fault lets the clock pass the end of this one).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import asyncpg
import stripe
from prometheus_client import CollectorRegistry

from ledger.billing.billed import connect_stripe, link_customer
from ledger.billing.deliver import Sender
from ledger.billing.door import Door
from ledger.billing.seal import GRACE, seal
from ledger.metrics import BillingMetrics
from ledger.periods import months_after
from stripefake.app import running
from stripefake.meters import units
from stripefake.world import PLATFORM
from tests.support.gateway import PROJECT

stripe.enable_telemetry = False
_EVENT = "requests"


async def bill_from_now_on(connection: asyncpg.Connection) -> None:
    """Have requests billed: before anything is counted."""
    await connect_stripe(connection, PROJECT, "live", None)
    await connection.execute(
        "INSERT INTO billed_meters (project_id, mode, meter, event_name, since) VALUES ($1, 'live', 'requests', $2, $3)",
        PROJECT,
        _EVENT,
        datetime.now(UTC) - timedelta(days=1),
    )


async def units_seen(url: str) -> tuple[Counter[str], Counter[str]]:
    """Units by customer: as Stripe has them after everything was sent, and as the ledger's events have them."""
    now = datetime.now(UTC)
    then = months_after(datetime(now.year, now.month, 1, tzinfo=UTC), 1) + timedelta(hours=26)
    pool = await asyncpg.create_pool(url, min_size=0, max_size=4)
    try:
        async with running() as fake:
            fake.world.clock.set(then.timestamp(), is_frozen=True)
            metrics = BillingMetrics(CollectorRegistry())
            door = Door({"live": "sk_live_1"}, metrics, base_url=fake.url, timeout_s=5)
            client = door._client("live")
            await client.v1.billing.meters.create_async(
                {"display_name": "API", "event_name": _EVENT, "default_aggregation": {"formula": "sum"}}
            )
            rows = await pool.fetch(
                "SELECT customer_id, sum((meters ->> 'requests')::bigint) AS n FROM usage_events GROUP BY 1"
            )
            counted = Counter({row["customer_id"]: int(row["n"]) for row in rows if row["n"]})
            theirs = {}
            async with pool.acquire() as connection:
                for customer in counted:
                    made = await client.v1.customers.create_async({"name": customer})
                    theirs[customer] = made.id
                    await link_customer(connection, PROJECT, "live", customer, made.id)
                await connection.execute("UPDATE billing_slots SET pending_since = $1", then - GRACE * 2)
                while await seal(connection, then):
                    pass
            sender = Sender(
                pool,
                door,
                metrics,
                name="chaos",
                now=lambda: then,
                per_second=10_000,
                pause=lambda attempt, jitter: 0.0,
            )
            while await sender.send_due():
                pass
            await door.close()
            found = units(fake.world, fake.world.half(PLATFORM, livemode=True)).get(_EVENT, {})
            return Counter({c: found.get(theirs[c], 0) for c in theirs}), counted
    finally:
        await pool.close()
