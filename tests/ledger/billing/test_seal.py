"""From events to entries: every unit is told once, whatever comes late, is corrected, or is cut by a period's edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.billing.billed import NotBilled, bill_meter, connect_stripe, link_customer, stop_billing
from ledger.billing.proof import flaws
from ledger.billing.seal import GRACE, MAX_VALUE, Entry, Pending, Slot, identifier_of, plan, seal
from ledger.ingest import _SESSION, Writer, insert_rows, judge
from ledger.partitions import ensure_partitions
from ledger.periods import period_of
from tests.ledger.facts import DAY_MS, HOUR_MS, NOW, NOW_MS, PROJECT, entry, examples, fact, ms

HOUR = timedelta(hours=1)
EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
async def billed(ledger: asyncpg.Connection) -> asyncpg.Connection:
    """A project that bills requests through Stripe, and Ada, whom Stripe knows."""
    await connect_stripe(ledger, PROJECT, "live", None)
    await link_customer(ledger, PROJECT, "live", "cus_ada", "cus_S1")
    await ledger.execute(
        "INSERT INTO billed_meters (project_id, mode, meter, event_name, since) VALUES ($1, 'live', 'requests', 'api', $2)",
        PROJECT,
        NOW - timedelta(days=60),
    )
    return ledger


async def sealed(pg: asyncpg.Connection, now: datetime = NOW + 2 * HOUR) -> list[tuple[datetime, int, int, int, str]]:
    """Seal as of `now`, as if nothing had come in since; all entries: (slot, sequence, quantity, value, state)."""
    await pg.execute("UPDATE billing_slots SET pending_since = $1", now - GRACE)
    while await seal(pg, now):
        pass
    rows = await pg.fetch("SELECT * FROM billing_entries ORDER BY customer_id, starts_at, sequence")
    assert await flaws(pg, *EVER) == []
    return [(r["starts_at"], r["sequence"], int(r["quantity"]), int(r["value"]), r["state"]) for r in rows]


async def test_an_hour_becomes_one_entry_once_it_is_over(billed: asyncpg.Connection, writer: Writer) -> None:
    hour = NOW.replace(minute=0)
    await writer.store([entry(fact(NOW_MS - n)) for n in range(5)])
    await writer.store([entry(fact(NOW_MS, meters={"requests": 3, "bytes_out": 9}))])

    assert await sealed(billed, hour + HOUR + GRACE - timedelta(seconds=1)) == []
    assert await sealed(billed, hour + HOUR + GRACE) == [(hour, 0, 8, 8, "due")]
    assert await sealed(billed, hour + 5 * HOUR) == [(hour, 0, 8, 8, "due")]


async def test_what_comes_late_is_a_further_entry_and_never_a_change(
    billed: asyncpg.Connection, writer: Writer
) -> None:
    hour = NOW.replace(minute=0)
    await writer.store([entry(fact())])
    before = await sealed(billed)
    first = await billed.fetchrow("SELECT * FROM billing_entries")

    await writer.store([entry(fact()), entry(fact())])
    assert await seal(billed, NOW + 2 * HOUR) == 0  # more may be on its way
    assert await sealed(billed) == [*before, (hour, 1, 2, 2, "due")]
    assert await billed.fetchrow("SELECT * FROM billing_entries WHERE sequence = 0") == first


async def test_a_slot_ends_where_a_period_begins(billed: asyncpg.Connection, writer: Writer) -> None:
    anchor = datetime(2026, 1, 31, 12, 10, 30, tzinfo=UTC)
    await billed.execute(
        "INSERT INTO tiers (id, project_id, mode, name, title) VALUES ('tier_1', $1, 'live', 'pro', 'Pro')", PROJECT
    )
    await billed.execute("INSERT INTO customers (id, project_id, mode) VALUES ('cus_ada', $1, 'live')", PROJECT)
    await billed.execute(
        "INSERT INTO subscriptions (id, project_id, mode, customer_id, tier_id, status, anchor_at)"
        " VALUES ('sub_1', $1, 'live', 'cus_ada', 'tier_1', 'active', $2)",
        PROJECT,
        anchor,
    )
    edge = datetime(2026, 2, 28, 12, 10, 30, tzinfo=UTC)
    moments = [edge - timedelta(milliseconds=1), edge, edge + HOUR]

    await writer.store([entry(fact(ms(moment))) for moment in moments])

    slots = await billed.fetch("SELECT starts_at, ends_at, period FROM billing_slots ORDER BY starts_at")
    noon = edge.replace(minute=0, second=0)
    assert [tuple(slot) for slot in slots] == [
        (noon, edge, anchor),
        (edge, noon + HOUR, edge),
        (noon + HOUR, noon + 2 * HOUR, edge),
    ]
    assert len(await sealed(billed, edge + GRACE)) == 1


@examples
@given(
    anchor=st.datetimes(datetime(2019, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),
    at=st.datetimes(datetime(2018, 1, 1), datetime(2031, 1, 1), timezones=st.just(UTC)),
)
async def test_the_database_has_the_periods_that_python_has(
    pg: asyncpg.Connection, anchor: datetime, at: datetime
) -> None:
    assert await pg.fetchval("SELECT period_start($1, $2)", anchor, at) == period_of(anchor, at)[0]
    assert await pg.fetchval("SELECT period_start(NULL, $1)", at) == period_of(None, at)[0]


async def test_only_what_is_billed_is_told(billed: asyncpg.Connection, writer: Writer) -> None:
    await writer.store(
        [
            entry(fact(mode="test")),
            entry(fact(customer=None)),
            entry(fact(project="prj_other")),
            entry(fact(meters={"bytes_out": 7})),
            entry(fact(meters={"requests": 0})),
        ]
    )

    assert await billed.fetchval("SELECT count(*) FROM billing_slots") == 0
    assert await sealed(billed) == []


async def test_a_customer_stripe_does_not_know_waits_and_is_waived_when_it_is_too_late(
    billed: asyncpg.Connection, writer: Writer
) -> None:
    hour = NOW.replace(minute=0)
    await writer.store([entry(fact(customer="cus_bob"))])

    assert await sealed(billed, NOW + timedelta(days=34)) == []
    assert await sealed(billed, NOW + timedelta(days=36)) == [(hour, 0, 1, 0, "waived")]


async def test_a_link_made_late_bills_what_waited(billed: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact(customer="cus_bob"))])
    assert await sealed(billed, NOW + timedelta(days=3)) == []

    await link_customer(billed, PROJECT, "live", "cus_bob", "cus_S2")

    assert [row[4] for row in await sealed(billed, NOW + timedelta(days=3))] == ["due"]


async def test_a_meter_can_be_billed_from_the_past_on_beside_running_writers(
    ledger: asyncpg.Connection, new_writer: Callable[[], Writer], postgres_url: str
) -> None:
    """Whatever batches are stored before, after or while billing begins: each event is counted once."""
    since = datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)
    other = await asyncpg.connect(postgres_url)
    start = ms(since)
    await ensure_partitions(ledger, since, ahead=2)
    now_ms = ms(datetime.now(UTC))

    async def write() -> None:
        writer = new_writer()
        writer._now_ms = lambda: now_ms
        for n in range(12):
            await writer.store([entry(fact(start + (m - 20) * HOUR_MS // 4)) for m in range(n, n + 40)])

    async def begin() -> None:
        async with other.transaction():
            await bill_meter(other, PROJECT, "live", "requests", "api", since)

    await asyncio.gather(write(), write(), begin())
    await other.close()

    assert await flaws(ledger, *EVER) == []
    assert await ledger.fetchval("SELECT sum(counted) FROM billing_slots") == 2 * sum(
        1 for n in range(12) for m in range(n, n + 40) if m >= 20
    )


async def test_billing_cannot_begin_or_end_where_it_makes_no_sense(billed: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    with pytest.raises(NotBilled, match="35 days"):
        await bill_meter(billed, PROJECT, "live", "tokens", "tok", now - timedelta(days=35))
    with pytest.raises(NotBilled, match="past"):
        await stop_billing(billed, PROJECT, "live", "requests", now - HOUR)
    with pytest.raises(NotBilled, match="not billed"):
        await stop_billing(billed, PROJECT, "live", "tokens", now + HOUR)
    assert await stop_billing(billed, PROJECT, "live", "requests", now + HOUR) == now + HOUR


async def test_several_workers_seal_each_amount_once(
    billed: asyncpg.Connection, writer: Writer, postgres_url: str
) -> None:
    for n in range(60):
        await link_customer(billed, PROJECT, "live", f"cus_{n}", "cus_S9")
    await writer.store([entry(fact(customer=f"cus_{n % 60}", at=NOW_MS - n * HOUR_MS // 9)) for n in range(300)])
    await billed.execute("UPDATE billing_slots SET pending_since = $1", NOW)
    workers = [await asyncpg.connect(postgres_url) for _ in range(3)]

    async def work(connection: asyncpg.Connection) -> int:
        total = 0
        while done := await seal(connection, NOW + 3 * HOUR, limit=20):
            total += done
        return total

    counts = await asyncio.gather(*(work(worker) for worker in workers))
    for worker in workers:
        await worker.close()

    assert sum(counts) == await billed.fetchval("SELECT count(*) FROM billing_entries")
    assert await billed.fetchval("SELECT sum(value) FROM billing_entries") == 300
    assert await flaws(billed, *EVER) == []


# Deciding


def slot(hour: int, customer: str = "cus_ada") -> Slot:
    return Slot(PROJECT, "live", customer, "requests", MARCH + hour * HOUR)


def pending(hour: int, amount: int, entries: int = 0, customer: str = "cus_ada") -> Pending:
    return Pending(slot(hour, customer), MARCH, amount, entries, "api")


def test_a_credit_is_netted_against_what_comes_next() -> None:
    made = plan([pending(5, 10), pending(6, 10)], [pending(1, -12, entries=1)])

    assert made == [
        Entry(slot(1), 1, -10, 0, "netted", "credit", identifier_of(slot(5), 0), "api"),
        Entry(slot(5), 0, 10, 0, "netted", "credit", None, "api"),
        Entry(slot(1), 2, -2, 0, "netted", "credit", identifier_of(slot(6), 0), "api"),
        Entry(slot(6), 0, 10, 8, "due", None, None, "api"),
    ]


def test_a_value_of_more_digits_than_stripe_takes_is_split() -> None:
    assert [e.value for e in plan([pending(0, 2 * MAX_VALUE + 5)], [])] == [MAX_VALUE, MAX_VALUE, 5]


amounts = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 3 * 10**15), st.integers(0, 3), st.sampled_from(["a", "b"])),
    max_size=8,
    unique_by=lambda t: (t[0], t[3]),
)


@examples
@given(positive=amounts, negative=amounts)
def test_quantities_are_the_truth_and_values_are_the_quantities(
    positive: list[tuple[int, int, int, str]], negative: list[tuple[int, int, int, str]]
) -> None:
    due = [pending(*one) for one in positive]
    owed = [pending(100 + hour, -amount, entries, who) for hour, amount, entries, who in negative]

    made = plan(due, owed)

    for one in due:
        assert sum(e.quantity for e in made if e.slot == one.slot) == one.amount
    for one in owed:
        assert one.amount <= sum(e.quantity for e in made if e.slot == one.slot) <= 0
    for who in ("a", "b"):
        of_group = [e for e in made if e.slot.customer_id == who]
        assert sum(e.value for e in of_group) == sum(e.quantity for e in of_group)
        total = sum(p.amount for p in due + owed if p.slot.customer_id == who)
        assert sum(e.value for e in of_group) == max(0, total)
    assert all(0 <= e.value <= MAX_VALUE for e in made)
    assert len({e.identifier for e in made}) == len(made)
    assert all((e.state == "due") == (e.value > 0) for e in made)


@settings(examples, max_examples=25)
@given(data=st.data())
async def test_slots_entries_and_events_always_agree(
    billed: asyncpg.Connection, new_writer: Callable[[], Writer], data: st.DataObject
) -> None:
    """Any events in any order, sealed at any moment; afterwards the values are what the events add up to."""
    writer = new_writer()
    await billed.execute("TRUNCATE billing_slots, billing_entries, usage_events, usage_hourly, usage_daily")
    steps = data.draw(st.lists(st.one_of(st.integers(0, 50), st.just(None)), max_size=12))
    for step in steps:
        if step is None:
            await sealed(billed)
        else:
            await writer.store([entry(fact(NOW_MS - step * HOUR_MS // 7, meters={"requests": step + 1}))] * 2)
            assert await flaws(billed, *EVER) == []
    await sealed(billed, NOW + 3 * HOUR)

    expected = sum(step + 1 for step in steps if step is not None)
    assert (await billed.fetchval("SELECT sum(value) FROM billing_entries") or Decimal(0)) == expected
    await writer.close()


async def test_the_proof_finds_what_is_wrong(billed: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact()), entry(fact(NOW_MS - DAY_MS))])
    await sealed(billed)
    for damage, check in (
        ("UPDATE billing_slots SET counted = counted + 1 WHERE starts_at > '2026-03-15'", "slots_and_events"),
        ("DELETE FROM billing_slots WHERE starts_at < '2026-03-15'", "slots_and_events"),
        ("UPDATE billing_entries SET quantity = 5 WHERE starts_at > '2026-03-15'", "slots_and_entries"),
        ("UPDATE billing_entries SET value = 5 WHERE starts_at > '2026-03-15'", "values_and_quantities"),
    ):
        change = billed.transaction()
        await change.start()
        await billed.execute(damage)
        assert check in {flaw.check for flaw in await flaws(billed, *EVER)}
        await change.rollback()
    assert await flaws(billed, *EVER) == []


async def test_a_slot_that_is_added_to_all_hour_is_changed_in_place(billed: asyncpg.Connection) -> None:
    """Else every batch would add to each index of the table, and ingest become slower as the hour goes on."""
    async with billed.transaction():
        for statement in _SESSION:
            await billed.execute(statement)
        for n in range(20):
            await insert_rows(billed, judge([entry(fact(NOW_MS - n))], NOW_MS).rows)
            await billed.execute("TRUNCATE usage_staging")
        for table in ("billing_slots", "usage_hourly", "usage_daily"):
            updated, in_place = await billed.fetchrow(
                "SELECT pg_stat_get_xact_tuples_updated(oid), pg_stat_get_xact_tuples_hot_updated(oid)"
                " FROM pg_class WHERE relname = $1",
                table,
            )
            assert in_place == updated >= 19, table
