"""Slots against a model in Python: any anchor, any events, billed from and until any moment, taken over or as they come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger import sql
from ledger.billing.proof import flaws
from ledger.ingest import Writer
from ledger.periods import period_of
from tests.ledger.billing.test_seal import EVER
from tests.ledger.facts import NOW, PROJECT, entry, examples, fact, ms

HOUR = timedelta(hours=1)
BEFORE = timedelta(days=38)
SlotTimes = tuple[datetime, datetime, datetime]
_BACKFILL = sql.load("ledger.billing", "billed.sql")["backfill"]

moments = st.datetimes((NOW - BEFORE).replace(tzinfo=None), NOW.replace(tzinfo=None), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
anchors = st.datetimes(datetime(2020, 1, 1), datetime(2026, 3, 1), timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=0)
)


def near(edge: datetime) -> st.SearchStrategy[datetime]:
    """Moments around an edge, to the millisecond."""
    return st.integers(-4_000_000, 4_000_000).map(lambda n: edge + timedelta(milliseconds=n))


def slot_of(anchor: datetime | None, at: datetime) -> SlotTimes:
    """Where an event counts, in plain Python: start, end, period."""
    hour = at.replace(minute=0, second=0, microsecond=0)
    start, end = period_of(anchor, at)
    return max(hour, start), min(hour + HOUR, end), start


async def slots(pg: asyncpg.Connection) -> dict[SlotTimes, int]:
    rows = await pg.fetch("SELECT starts_at, ends_at, period, counted FROM billing_slots")
    return {(row["starts_at"], row["ends_at"], row["period"]): int(row["counted"]) for row in rows}


@settings(examples, max_examples=60)
@given(data=st.data(), anchor=st.none() | anchors, is_backfilled=st.booleans())
async def test_slots_are_what_the_model_says(
    ledger: asyncpg.Connection,
    new_writer: Callable[[], Writer],
    data: st.DataObject,
    anchor: datetime | None,
    is_backfilled: bool,
) -> None:
    edges = [period_of(anchor, NOW)[0], period_of(anchor, NOW - timedelta(days=20))[0]]
    times = st.one_of(moments, *(near(edge) for edge in edges)).filter(lambda at: NOW - BEFORE < at <= NOW)
    events = data.draw(st.lists(st.tuples(times, st.integers(0, 9)), max_size=14))
    since = data.draw(st.just(NOW - 2 * BEFORE) | times)
    until = None if is_backfilled else data.draw(st.none() | times)
    await ledger.execute("TRUNCATE usage_events, usage_hourly, usage_daily, billing_slots, billed_meters")
    await ledger.execute("TRUNCATE subscriptions, customers, tiers CASCADE")
    await ledger.execute("INSERT INTO customers (id, project_id, mode) VALUES ('cus_ada', $1, 'live')", PROJECT)
    if anchor is not None:
        await ledger.execute(
            "INSERT INTO tiers (id, project_id, mode, name, title) VALUES ('tier_1', $1, 'live', 'pro', 'Pro')", PROJECT
        )
        await ledger.execute(
            "INSERT INTO subscriptions (id, project_id, mode, customer_id, tier_id, status, anchor_at)"
            " VALUES ('sub_1', $1, 'live', 'cus_ada', 'tier_1', 'active', $2)",
            PROJECT,
            anchor,
        )
    bill = "INSERT INTO billed_meters VALUES ($1, 'live', 'requests', 'api', $2, coalesce($3, 'infinity'::timestamptz))"
    if not is_backfilled:
        await ledger.execute(bill, PROJECT, since, until)
    writer = new_writer()
    batches = data.draw(st.integers(1, 4))
    for start in range(batches):
        await writer.store([entry(fact(ms(at), meters={"requests": n, "x": 1})) for at, n in events[start::batches]])
    if is_backfilled:
        await ledger.execute(bill, PROJECT, since, until)
        await ledger.execute(_BACKFILL, PROJECT, "live", "requests", since)

    expected: dict[SlotTimes, int] = defaultdict(int)
    for at, quantity in events:
        if quantity and since <= at and (until is None or at < until):
            expected[slot_of(anchor, at)] += quantity
    assert await slots(ledger) == expected
    assert await flaws(ledger, *EVER) == []
    await writer.close()


@examples
@given(anchor=st.none() | anchors, at=moments)
@example(anchor=datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC), at=datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC))
def test_the_model_itself_tiles_time(anchor: datetime | None, at: datetime) -> None:
    start, end, period = slot_of(anchor, at)
    assert start <= at < end
    assert end - start <= HOUR
    assert period <= start
    assert slot_of(anchor, end)[0] == end
