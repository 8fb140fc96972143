"""The worker's billing as a real process: usage goes in at Redis and comes out at Stripe, also when it is killed."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from ledger.billing.billed import bill_meter, connect_stripe, link_customer
from ledger.billing.proof import flaws
from ledger.dependency import Dependency
from ledger.ids import uuid7
from ledger.names import STREAM_FIELD, usage_stream
from ledger.stream import connect
from stripefake.app import running as fake_running
from stripefake.meters import units
from stripefake.world import PLATFORM
from tests.ledger.billing.test_seal import EVER
from tests.ledger.facts import PROJECT, fact
from tests.ledger.test_worker import running
from tollgate.billing import _keep

DEADLINE_S = 20.0


async def test_killed_in_the_middle_of_a_call_it_is_billed_once(
    postgres_url: str, redis_url: str, pg: asyncpg.Connection
) -> None:
    await pg.execute("INSERT INTO projects (id, name, kind) VALUES ($1, 'Acme', 'saas')", PROJECT)
    await connect_stripe(pg, PROJECT, "live", None)
    async with fake_running() as fake:
        half = fake.world.half(PLATFORM, livemode=True)
        half.of("billing.meter")["mtr_1"] = {
            "id": "mtr_1",
            "event_name": "api",
            "status": "active",
            "customer_mapping": {"event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
            "default_aggregation": {"formula": "sum"},
        }
        for number in range(5):
            half.of("customer")[f"cus_S{number}"] = {"id": f"cus_S{number}"}
            await link_customer(pg, PROJECT, "live", f"cus_{number}", f"cus_S{number}")
        for kind in ("hang_after", "drop_after", "truncate", "500_after"):
            fake.world.faults.add({"kind": kind, "path": "/v1/billing/meter_events", "times": 1, "delay_ms": 20_000})

        redis: Redis = connect(redis_url)
        made = datetime.now(UTC) - timedelta(hours=3)
        async with pg.transaction():
            await bill_meter(pg, PROJECT, "live", "requests", "api", made - timedelta(hours=1))
        for number in range(100):
            event_id = uuid7(int(made.timestamp() * 1000) + number)
            event = fact() | {"id": event_id.hex, "at": event_id.int >> 80, "customer": f"cus_{number % 5}"}
            await redis.xadd(usage_stream(0), {STREAM_FIELD: orjson.dumps(event)})
        await redis.aclose()

        settings = {
            "postgres_url": postgres_url,
            "redis_url": redis_url,
            "redis_shards": 1,
            "stripe": {"live_key": "sk_live_secret1", "api_url": fake.url, "send_interval_ms": 50},
        }
        async with running(**settings) as victim:
            async with asyncio.timeout(DEADLINE_S):
                while await pg.fetchval("SELECT coalesce(sum(counted), 0) FROM billing_slots") < 100:
                    await asyncio.sleep(0.02)
        # What lets five minutes pass: the slots are settled
        await pg.execute("UPDATE billing_slots SET pending_since = now() - interval '1 hour'")
        async with running(**settings) as victim:
            async with asyncio.timeout(DEADLINE_S):
                while len(half.meter_events) < 3:
                    await asyncio.sleep(0.01)
            assert await victim.end(signal.SIGKILL) == -signal.SIGKILL
            assert "secret1" not in "".join(victim.said)
        await pg.execute("UPDATE billing_entries SET leased_until = now() - interval '1 s', available_at = now()")
        async with running(**settings) as heir:
            async with asyncio.timeout(DEADLINE_S):
                while await pg.fetchval("SELECT count(*) FROM billing_entries WHERE state = 'sent'") < 5:
                    await pg.execute("UPDATE billing_entries SET available_at = now() WHERE state = 'due'")
                    await asyncio.sleep(0.02)
            _, text = await heir.until("/metrics", lambda status, text: "tollgate_billing_sent_total" in text)
            assert 'tollgate_stripe_calls_total{call="meter_event"' in text
            assert await heir.end(signal.SIGTERM) == 0

        assert units(fake.world, half) == {"api": {f"cus_S{number}": 20 for number in range(5)}}
        assert await flaws(pg, *EVER) == []


async def test_a_failure_nobody_foresaw_does_not_end_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Ingest is in the same process."""
    stop, tries = asyncio.Event(), 0

    async def work() -> int:
        nonlocal tries
        tries += 1
        match tries:
            case 1:
                raise KeyError("surprise")
            case 2:
                raise ValueError("another")
            case 3:
                raise ConnectionResetError("away")
        stop.set()
        return 0

    await _keep(work, 0.01, Dependency("postgres"), stop)

    assert tries == 4
    assert caplog.text.count("billing failed at one thing") == 2
    assert "postgres is down: ConnectionResetError: away" in caplog.text
