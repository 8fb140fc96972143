"""Every book damaged in turn: the damage is found, told, and put right, and Stripe never counts anything twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from ledger import names
from ledger.corrections import correct
from ledger.ingest import Writer
from ledger.metrics import BillingMetrics
from ledger.reconcile.figures import Report, table
from ledger.reconcile.nightly import is_due, reconcile_if_due
from ledger.reconcile.run import month_of, reconcile
from ledger.stream import connect
from stripefake.world import PLATFORM
from tests.ledger.billing.conftest import World, world
from tests.ledger.facts import HOUR_MS, NOW, NOW_MS, PROJECT, entry, fact

__all__ = ["world"]
START, END = month_of("2026-03", NOW)
DAY = timedelta(days=1)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def billed(world: World, writer: Writer) -> World:
    """Ada used 12 and Bob 3; all of it is at Stripe."""
    await writer.store(
        [
            entry(fact(meters={"requests": 5, "bytes_out": 9})),
            entry(fact(NOW_MS - HOUR_MS, meters={"requests": 7})),
            entry(fact(customer="cus_bob", meters={"requests": 3})),
            entry(fact(customer=None, meters={"requests": 2})),
        ]
    )
    await world.seal()
    await world.send_all()
    assert world.billed() == {"cus_ada": 12, "cus_bob": 3}
    return world


async def run(world: World, *, repair: bool = False, **more: Any) -> Report:
    return await reconcile(world.pg, START, END, door=world.door, is_repair=repair, now=world.now, **more)


async def test_books_that_agree(billed: World) -> None:
    report = await run(billed)

    assert report.is_clean
    assert report.left_out == ["counters: no Redis is set"]
    ada = next(one for one in report.figures if (one.customer_id, one.meter) == ("cus_ada", "requests"))
    assert (ada.events, ada.hourly, ada.daily, ada.billable, ada.counted, ada.sealed, ada.sent, ada.stripe) == (12,) * 8
    unbilled = next(one for one in report.figures if one.meter == "bytes_out")
    assert (unbilled.events, unbilled.counted, unbilled.stripe) == (9, None, None)
    assert "cus_ada" in table(report)
    stored = orjson.loads(await billed.pg.fetchval("SELECT report FROM reconciliations"))
    assert stored["isClean"] is True
    assert len(stored["figures"]) == len(report.figures)


async def test_another_project_is_not_in_it(billed: World) -> None:
    assert (await run(billed, project_id="prj_other")).figures == []


DAMAGE = {
    "hourly": "UPDATE usage_hourly SET quantity = quantity + 5 WHERE customer_id = 'cus_ada' AND meter = 'requests'",
    "hourly missing": "DELETE FROM usage_hourly",
    "hourly too many": "INSERT INTO usage_hourly SELECT DISTINCT project_id, mode, hour, 'x', '', '', 'm', 1, 1"
    " FROM usage_hourly",
    "daily": "UPDATE usage_daily SET quantity = quantity - 1 WHERE customer_id = 'cus_bob'",
    "daily missing": "DELETE FROM usage_daily WHERE customer_id = ''",
    "slots": "UPDATE billing_slots SET counted = counted + 4 WHERE customer_id = 'cus_bob'",
    "slots too little": "UPDATE billing_slots SET counted = counted - 2 WHERE customer_id = 'cus_ada'",
    "entries": "UPDATE billing_slots SET sealed = sealed - 1, entries = 0 WHERE customer_id = 'cus_ada'",
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
async def test_damage_is_found_and_put_right(damage: str, billed: World) -> None:
    await billed.pg.execute(DAMAGE[damage])
    book = damage.split()[0]

    found = await run(billed)
    assert found.drift[book] > 0
    assert {name for name, units in found.drift.items() if units} <= {book, "credits"}

    repaired = await run(billed, repair=True)
    assert repaired.is_clean, repaired.drift
    assert repaired.repairs
    await billed.seal()
    await billed.send_all()
    assert (await run(billed)).is_clean
    assert billed.billed() == {"cus_ada": 12, "cus_bob": 3}


async def test_entries_that_are_missing_are_reported_and_never_sent_again(billed: World) -> None:
    await billed.pg.execute("DELETE FROM billing_entries WHERE customer_id = 'cus_bob'")

    report = await run(billed, repair=True)
    await billed.seal()
    await billed.send_all()

    assert report.drift["entries"] == 3
    assert billed.billed() == {"cus_ada": 12, "cus_bob": 3}


async def test_what_stripe_lost_is_made_again_after_a_day(billed: World) -> None:
    half = billed.fake.world.half(PLATFORM, livemode=True)
    bob = billed.customers["cus_bob"]
    half.meter_events = [event for event in half.meter_events if event.payload["stripe_customer_id"] != bob]

    early = await run(billed, repair=True)
    assert (early.drift["stripe"], early.repairs) == (3, [])
    billed.pass_time(DAY + timedelta(minutes=1))
    await run(billed, repair=True)
    await billed.seal()
    await billed.send_all()

    assert billed.billed() == {"cus_ada": 12, "cus_bob": 3}
    assert (await run(billed)).is_clean


async def test_what_stripe_has_too_much_is_taken_off_what_comes_next(billed: World, writer: Writer) -> None:
    client = billed.door._client("live")
    await client.v1.billing.meter_events.create_async(
        {
            "event_name": "api",
            "timestamp": NOW_MS // HOUR_MS * 3600,
            "payload": {"stripe_customer_id": billed.customers["cus_ada"], "value": "4"},
        }
    )
    assert (await run(billed)).drift["stripe"] == 4
    repaired = await run(billed, repair=True)
    assert (repaired.drift["stripe"], repaired.drift["credits"]) == (0, 4)

    await writer.store([entry(fact(NOW_MS - 2 * HOUR_MS, meters={"requests": 10}))])
    await billed.seal()
    await billed.send_all()

    assert billed.billed()["cus_ada"] == 22
    assert (await run(billed)).drift == dict.fromkeys(repaired.drift, 0)


async def test_a_repair_that_is_repeated_changes_nothing(billed: World) -> None:
    for damage in ("hourly", "daily", "slots", "entries"):
        await billed.pg.execute(DAMAGE[damage])
    first = await run(billed, repair=True)
    books = await billed.pg.fetch("SELECT * FROM billing_slots ORDER BY customer_id, starts_at")
    second = await run(billed, repair=True)

    assert first.repairs
    assert second.repairs == []
    assert await billed.pg.fetch("SELECT * FROM billing_slots ORDER BY customer_id, starts_at") == books


async def test_repairs_at_the_same_time_put_each_thing_right_once(
    billed: World, redis: Redis, postgres_url: str
) -> None:
    """Two people, or one who is impatient: what one puts right is not what the other has seen."""
    await billed.pg.execute("INSERT INTO customers (id, project_id, mode) VALUES ('cus_ada', $1, 'live')", PROJECT)
    key = await counter(redis, 20)
    await billed.pg.execute(DAMAGE["slots too little"])
    others = [await asyncpg.connect(postgres_url) for _ in range(2)]
    try:
        together = [
            reconcile(each, START, END, is_repair=True, now=billed.now, redis=redis, shards=16)
            for each in (billed.pg, *others)
        ]
        reports = await asyncio.gather(*together)
    finally:
        for each in others:
            await each.close()
    assert [report.is_clean for report in reports] == [True] * 3
    assert sum(bool(report.repairs) for report in reports) == 1
    assert int(await redis.get(key)) == 12
    await billed.seal()
    await billed.send_all()
    assert billed.billed() == {"cus_ada": 12, "cus_bob": 3}


async def test_what_was_told_to_another_account_is_looked_for_there(billed: World, writer: Writer) -> None:
    """Else a change of account would look as if Stripe had lost everything, and be sent again."""
    billed.fake.world.accounts.add("acct_1")
    client = billed.door._client("live")
    to_other: Any = {"stripe_account": "acct_1"}
    await client.v1.billing.meters.create_async(
        {"display_name": "API", "event_name": "api", "default_aggregation": {"formula": "sum"}}, to_other
    )
    ada = await client.v1.customers.create_async({"name": "Ada"}, to_other)
    await billed.pg.execute("UPDATE stripe_accounts SET account = 'acct_1'")
    await billed.pg.execute("UPDATE stripe_customers SET stripe_customer_id = $1 WHERE customer_id = 'cus_ada'", ada.id)
    await writer.store([entry(fact(meters={"requests": 100}))])  # in an hour that the other account knows too
    await billed.seal()
    await billed.send_all()

    billed.pass_time(DAY * 2)
    report = await run(billed, repair=True)
    assert report.is_clean
    assert report.repairs == []
    figures = next(one for one in report.figures if (one.customer_id, one.meter) == ("cus_ada", "requests"))
    assert (figures.sent, figures.stripe) == (112, 112)


async def test_too_many_requests_are_waited_for(billed: World) -> None:
    billed.fake.world.faults.add({"kind": "429", "path": "/v1/billing/meters", "times": 2})
    report = await run(billed)
    assert not any(reason.startswith("stripe") for reason in report.left_out)


async def test_an_archived_meter_of_the_same_name_is_not_asked(billed: World) -> None:
    client = billed.door._client("live")
    await client.v1.billing.meters.deactivate_async(billed.meter)
    await client.v1.billing.meters.create_async(
        {"display_name": "API", "event_name": "api", "default_aggregation": {"formula": "sum"}}
    )
    assert (await billed.door._meter("live", None, "api")) != billed.meter


async def test_stripe_away_is_said(billed: World) -> None:
    billed.fake.world.faults.add({"kind": "500", "times": None})
    report = await run(billed)
    assert report.is_clean
    assert any(reason.startswith("stripe: ") for reason in report.left_out)


# Counters in Redis


async def counter(redis: Redis, value: int, owner: str = "cus_ada") -> str:
    shard = names.shard_of(PROJECT, owner if owner.startswith("cus_") else None, 16)
    key = names.quota(shard, f"live:{owner}", "requests", int(START.timestamp()))
    await redis.set(key, value)
    await redis.set(names.epoch(shard), "1")
    return key


async def test_counters_are_compared_with_what_is_stored_and_in_flight(billed: World, redis: Redis) -> None:
    await billed.pg.execute("INSERT INTO customers (id, project_id, mode) VALUES ('cus_ada', $1, 'live')", PROJECT)
    key = await counter(redis, 12)
    await counter(redis, 2, PROJECT)
    assert (await run(billed, redis=redis, shards=16)).is_clean

    shard = names.shard_of(PROJECT, "cus_ada", 16)
    await redis.set(key, 12 + 3 + 4)
    hold = orjson.dumps({"gateway": "g", "meters": {"requests": 3}, "hold": [[key, 3]]})
    await redis.hset(names.reservations(shard), "e1", hold)
    on_stream = {names.STREAM_FIELD: orjson.dumps(fact(meters={"requests": 4}))}
    await redis.xadd(names.usage_stream(shard), on_stream)
    assert (await run(billed, redis=redis, shards=16)).is_clean

    await redis.incrby(key, 6)
    report = await run(billed, redis=redis, shards=16)
    assert [(one.key, one.units) for one in report.counters] == [(key, 6)]
    repaired = await run(billed, repair=True, redis=redis, shards=16)
    assert repaired.is_clean
    assert int(await redis.get(key)) == 19


async def test_what_was_corrected_is_not_taken_for_drift(billed: World, redis: Redis) -> None:
    """A counter may lack the corrections since some moment: since it was made, or rebuilt in between."""
    await billed.pg.execute("INSERT INTO customers (id, project_id, mode) VALUES ('cus_ada', $1, 'live')", PROJECT)
    key = await counter(redis, 12)
    rows = await billed.pg.fetch(
        "SELECT id, meters ->> 'requests' AS n FROM usage_events WHERE customer_id = 'cus_ada'"
    )
    first, second = rows[0], rows[1]
    await billed.pg.execute("UPDATE usage_events SET stored_at = now() - interval '1 hour'")
    async with billed.pg.transaction():
        await correct(billed.pg, PROJECT, "live", first["id"], None, actor="test", reason="test")
    assert (await run(billed, redis=redis, shards=16)).counters == []
    async with billed.pg.transaction():
        await correct(billed.pg, PROJECT, "live", second["id"], {"requests": 9}, actor="test", reason="test")
    less, more = int(first["n"]), 9 - int(second["n"])
    for value in (12, 12 - less, 12 - less + more):
        await redis.set(key, value)
        assert (await run(billed, redis=redis, shards=16)).counters == [], value
    for value in (12 + more, 11, 13 - less):  # the second and not the first; and what is no sum of any
        if value not in (12, 12 - less, 12 - less + more):
            await redis.set(key, value)
            assert [one.key for one in (await run(billed, redis=redis, shards=16)).counters] == [key], value
    repaired = await run(billed, repair=True, redis=redis, shards=16)
    assert repaired.is_clean
    assert int(await redis.get(key)) == 12 - less + more


async def test_counters_that_are_being_rebuilt_are_left_alone(billed: World, redis: Redis) -> None:
    await billed.pg.execute("INSERT INTO customers (id, project_id, mode) VALUES ('cus_ada', $1, 'live')", PROJECT)
    key = await counter(redis, 1)
    await redis.delete(names.epoch(names.shard_of(PROJECT, "cus_ada", 16)))
    assert (await run(billed, repair=True, redis=redis, shards=16)).is_clean
    assert await redis.get(key) == b"1"


async def test_redis_away_is_said(billed: World) -> None:
    nowhere = connect("redis://127.0.0.1:1/0")
    report = await run(billed, redis=nowhere, shards=1)
    assert any(reason.startswith("counters: Redis is away") for reason in report.left_out)
    await nowhere.aclose()


# Nightly


@pytest.mark.parametrize(
    ("last", "now", "due"),
    [
        (None, "2026-03-15T12:00", True),
        ("2026-03-15T02:59", "2026-03-15T03:00", True),
        ("2026-03-15T03:00", "2026-03-15T23:59", False),
        ("2026-03-15T03:00", "2026-03-16T02:59", False),
        ("2026-03-15T03:00", "2026-03-16T03:00", True),
    ],
)
def test_it_is_due_once_a_night(last: str | None, now: str, due: bool) -> None:
    def moment(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)

    assert is_due(None if last is None else moment(last), moment(now)) is due


async def test_the_nightly_run_is_done_once_and_sets_the_metric(billed: World, redis: Redis, postgres_url: str) -> None:
    registry = CollectorRegistry()
    metrics = BillingMetrics(registry)
    await billed.pg.execute(DAMAGE["hourly"])

    async def connection() -> asyncpg.Connection:
        return await asyncpg.connect(postgres_url)

    assert await reconcile_if_due(connection, redis, 16, billed.door, metrics, billed.now)
    await billed.pg.execute("UPDATE reconciliations SET ended_at = $1", billed.now)
    assert not await reconcile_if_due(connection, redis, 16, billed.door, metrics, billed.now)

    assert registry.get_sample_value("tollgate_billing_drift_units", {"books": "hourly"}) == 10
    assert registry.get_sample_value("tollgate_billing_drift_units", {"books": "daily"}) == 0


def test_a_month_is_one() -> None:
    assert month_of(None, NOW) == (START, END) == month_of("2026-03", NOW)
    for wrong in ("2026", "2026-13", "march", "2026-03-01"):
        with pytest.raises(ValueError):
            month_of(wrong, NOW)
