"""Storing batches: every event once, whatever is delivered how often, in what order, by whom, and however it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import ids
from ledger.ingest import FUTURE_MS, OLDEST_MS, LedgerUnavailable, Poison, Writer, judge
from ledger.metrics import IngestMetrics
from ledger.names import STREAM_FIELD
from ledger.stream import Entry
from tests.ledger import books
from tests.ledger.books import Books
from tests.ledger.facts import DAY_MS, HOUR_MS, NOW, NOW_MS, PROJECT, entry, examples, fact, ms

NOTHING = Books(0, {})


def hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


async def test_an_event_becomes_a_row_and_a_rollup(ledger: asyncpg.Connection, writer: Writer) -> None:
    event = fact(customer=None, upstream_us=0)

    await writer.store([entry(event)])

    row = dict(await ledger.fetchrow("SELECT * FROM usage_events"))
    assert row.pop("stored_at") is not None
    assert row | {"id": row["id"].hex, "meters": orjson.loads(row["meters"])} == {
        "project_id": PROJECT,
        "at": NOW,
        "id": event["id"],
        "mode": "live",
        "customer_id": None,
        "key_id": "key_1",
        "route_id": "rte_1",
        "method": "GET",
        "status": 200,
        "outcome": "completed",
        "meters": {"requests": 1, "bytes_out": 1024},
        "duration_us": 1830,
        "upstream_us": 0,
        "corrects": None,
        "actor": None,
        "reason": None,
        "notes": None,
    }
    assert await books.rollup(ledger) == {(hour(NOW), ""): (1, 1)}
    assert await books.read(ledger) == Books(1, {"requests": 1, "bytes_out": 1024})


async def test_what_else_is_known_of_an_event_is_kept(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact() | {"notes": {"estimated": ["tokens"]}})])
    assert orjson.loads(await ledger.fetchval("SELECT notes FROM usage_events")) == {"estimated": ["tokens"]}


async def test_every_delivery_after_the_first_changes_nothing(
    ledger: asyncpg.Connection, writer: Writer, count: Callable[..., int]
) -> None:
    events = [fact(NOW_MS - n * HOUR_MS // 7, customer=f"cus_{n % 3}") for n in range(50)]
    once = [entry(event) for event in events]

    await writer.store(once)
    expected = await books.read(ledger)
    await writer.store(once)  # the very entries again: their acknowledgement was lost
    await writer.store([entry(event) for event in reversed(events)])  # sent twice, under new entry ids

    assert await books.read(ledger) == expected == Books(50, {"requests": 50, "bytes_out": 51_200})
    assert count("tollgate_events_written_total") == 50
    assert count("tollgate_duplicates_total") == 100


async def test_duplicates_inside_one_batch_count_once(
    ledger: asyncpg.Connection, writer: Writer, count: Callable[..., int]
) -> None:
    one, two = fact(), fact()

    await writer.store([entry(event) for event in (one, two, one, one, two)])

    assert await books.read(ledger) == Books(2, {"requests": 2, "bytes_out": 2048})
    assert count("tollgate_duplicates_total") == 3


async def test_an_event_without_meters_is_stored_and_counts_nothing(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact(meters={}))])

    assert await books.read(ledger) == Books(1, {})


async def test_the_largest_quantities_add_up_exactly(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact(meters={"tokens": 2**53})) for _ in range(3000)])

    assert await ledger.fetchval("SELECT quantity FROM usage_hourly") == 3000 * 2**53  # beyond 64 bits


async def test_an_event_belongs_to_the_hour_and_month_it_was_admitted_in(
    ledger: asyncpg.Connection, writer: Writer
) -> None:
    march = datetime(2026, 3, 1, tzinfo=UTC)
    instant = timedelta(milliseconds=1)

    await writer.store([entry(fact(ms(moment))) for moment in (march - instant, march, march, march + instant)])

    assert await books.rollup(ledger) == {
        (march - timedelta(hours=1), "cus_ada"): (1, 1),
        (march, "cus_ada"): (3, 3),
    }
    rows = await ledger.fetch("SELECT tableoid::regclass::text AS partition, at FROM usage_events ORDER BY at")
    assert [(row["partition"], row["at"]) for row in rows] == [
        ("usage_events_2026_02", march - instant),
        ("usage_events_2026_03", march),
        ("usage_events_2026_03", march),
        ("usage_events_2026_03", march + instant),
    ]


# Idempotency keys


async def test_of_events_that_share_an_idempotency_key_the_one_admitted_first_counts(
    ledger: asyncpg.Connection, writer: Writer, count: Callable[..., int]
) -> None:
    first, second = fact(NOW_MS - 10, idem="order-7"), fact(NOW_MS, idem="order-7")

    await writer.store([entry(second), entry(first)])
    await writer.store([entry(fact(NOW_MS + 10, idem="order-7"))])

    assert (await books.read(ledger)).events == 1
    assert (await ledger.fetchval("SELECT id FROM usage_events")).hex == first["id"]
    assert count("tollgate_duplicates_total") == 2


async def test_the_claim_of_an_idempotency_key_stays_with_the_event_that_made_it(
    ledger: asyncpg.Connection, writer: Writer
) -> None:
    stored, earlier = fact(NOW_MS, idem="order-7"), fact(NOW_MS - HOUR_MS, idem="order-7")

    await writer.store([entry(stored)])
    await writer.store([entry(earlier), entry(stored)])  # admitted before, arrives after: it is the duplicate

    assert (await books.read(ledger)).events == 1
    assert (await ledger.fetchval("SELECT id FROM usage_events")).hex == stored["id"]


async def test_an_idempotency_key_belongs_to_its_project_mode_and_customer(
    ledger: asyncpg.Connection, writer: Writer
) -> None:
    owners: list[dict[str, Any]] = [
        {},
        {"customer": "cus_bob"},
        {"customer": None},
        {"mode": "test"},
        {"project": "prj_other"},
    ]

    await writer.store([entry(fact(idem="order-7", **owner)) for owner in owners + owners])

    assert (await books.read(ledger)).events == len(owners)


# Customers and keys


async def test_a_customer_first_seen_is_made_once_and_is_no_news_for_gateways(
    ledger: asyncpg.Connection, writer: Writer
) -> None:
    bob = ids.customer_id_for(PROJECT, "live", "bob")
    seen = fact(customer=bob, external="bob")

    await writer.store([entry(seen), entry(fact(customer=bob, external="bob")), entry(fact())])
    await writer.store([entry(fact(customer=bob, external="bob"))])

    rows = await ledger.fetch("SELECT id, project_id, mode, external_id, origin FROM customers")
    assert [tuple(row) for row in rows] == [(bob, PROJECT, "live", "bob", "seen")]
    assert await ledger.fetchval("SELECT count(*) FROM changes WHERE noun = 'customer'") == 0
    assert (await books.rollup(ledger))[hour(NOW), bob] == (3, 3)


async def test_a_declared_customer_is_left_as_declared(ledger: asyncpg.Connection, writer: Writer) -> None:
    bob = ids.customer_id_for(PROJECT, "live", "bob")
    await ledger.execute(
        "INSERT INTO customers (id, project_id, mode, external_id, name) VALUES ($1, $2, 'live', 'bob', 'Bob')",
        bob,
        PROJECT,
    )

    await writer.store([entry(fact(customer=bob, external="bob"))])

    assert [tuple(row) for row in await ledger.fetch("SELECT name, origin FROM customers")] == [("Bob", "declared")]


async def test_a_customer_known_by_external_id_alone_is_found(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact(customer=None, external="bob"))])

    bob = ids.customer_id_for(PROJECT, "live", "bob")
    assert await ledger.fetchval("SELECT customer_id FROM usage_events") == bob
    assert await ledger.fetchval("SELECT id FROM customers") == bob


async def test_facts_of_a_deleted_project_are_kept_without_new_customers(
    ledger: asyncpg.Connection, writer: Writer
) -> None:
    await writer.store([entry(fact(project="prj_gone", customer=None, external="bob"))])

    assert (await books.read(ledger)).events == 1
    assert await ledger.fetchval("SELECT count(*) FROM customers") == 0
    assert await books.dead_letters(ledger) == {}


async def _make_keys(ledger: asyncpg.Connection, *names: str) -> None:
    for name in names:
        await ledger.execute(
            "INSERT INTO keys (id, project_id, mode, kind, name, hash, prefix)"
            " VALUES ($1, $2, 'live', 'sk', 'k', sha256($1::text::bytea), 'sk_live_abcd')",
            name,
            PROJECT,
        )


async def _last_used(ledger: asyncpg.Connection) -> dict[str, datetime | None]:
    return {row["id"]: row["last_used_at"] for row in await ledger.fetch("SELECT id, last_used_at FROM keys")}


async def test_a_keys_last_use_is_noted_at_most_once_a_minute(ledger: asyncpg.Connection, writer: Writer) -> None:
    await _make_keys(ledger, "key_1", "key_2")

    await writer.store([entry(fact(NOW_MS - 2)), entry(fact(NOW_MS)), entry(fact(key=None))])
    assert await _last_used(ledger) == {"key_1": NOW, "key_2": None}

    await writer.store([entry(fact(NOW_MS + 59_999))])
    await writer.store([entry(fact(NOW_MS - HOUR_MS))])
    assert (await _last_used(ledger))["key_1"] == NOW

    await writer.store([entry(fact(NOW_MS + 60_000))])
    assert (await _last_used(ledger))["key_1"] == NOW + timedelta(minutes=1)
    assert await ledger.fetchval("SELECT count(*) FROM changes WHERE noun = 'key'") == 2  # they were made


async def test_a_key_that_is_being_changed_holds_nothing_up(ledger: asyncpg.Connection, writer: Writer) -> None:
    await _make_keys(ledger, "key_1")
    change = ledger.transaction()
    await change.start()
    await ledger.execute("UPDATE keys SET name = 'renamed' WHERE id = 'key_1'")

    await asyncio.wait_for(writer.store([entry(fact())]), 5)

    await change.commit()
    assert (await books.read(ledger)).events == 1
    assert await _last_used(ledger) == {"key_1": None}


async def test_a_foreign_projects_key_cannot_be_touched(ledger: asyncpg.Connection, writer: Writer) -> None:
    await _make_keys(ledger, "key_1")

    await writer.store([entry(fact(project="prj_other"))])

    assert await _last_used(ledger) == {"key_1": None}


# Poison


def _glyphs(seed: int) -> str:
    """256 characters of three bytes each that do not compress."""
    return "".join(chr(code) for code in random.Random(seed).choices(range(0x4E00, 0x9FFF), k=256))


POISON: dict[Poison, list[Entry]] = {
    Poison.NO_EVENT: [Entry("tg:{00}:usage", b"1-1", {b"x": b"y"})],
    Poison.INVALID: [entry(b"not JSON"), entry(b""), entry(fact(mode="prod")), entry(fact(meters={"requests": -1}))],
    Poison.WRONG_ID: [entry(fact() | {"at": NOW_MS - DAY_MS - 1}), entry(fact() | {"id": "0" * 32})],
    Poison.FUTURE: [entry(fact(NOW_MS + FUTURE_MS + 1))],
    Poison.STALE: [entry(fact(NOW_MS - OLDEST_MS - 1))],
    Poison.REFUSED: [
        entry(fact(customer=None, external="x" * 201)),
        entry(fact(customer=_glyphs(1), key=_glyphs(2), route=_glyphs(3), project=_glyphs(4))),  # no index takes that
    ],
}
EACH_POISON = [
    pytest.param(poison, bad, id=f"{poison}-{n}") for poison in POISON for n, bad in enumerate(POISON[poison])
]


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize(("poison", "bad"), EACH_POISON)
async def test_one_poison_entry_is_put_aside_and_stops_nothing(
    poison: Poison, bad: Entry, place: int, ledger: asyncpg.Connection, writer: Writer, count: Callable[..., int]
) -> None:
    batch = [entry(fact()) for _ in range(6)]
    batch.insert(place, bad)

    await writer.store(batch)
    await writer.store(batch)

    assert (await books.read(ledger)).events == 6
    letters = await ledger.fetch("SELECT stream, entry_id, payload, reason FROM dead_letters")
    assert [(row["stream"], row["entry_id"]) for row in letters] == [(bad.stream, bad.id.decode())]
    assert letters[0]["payload"] == bad.fields.get(STREAM_FIELD, b"{b'x': b'y'}")
    assert letters[0]["reason"]
    assert count("tollgate_dead_letters_total", reason=poison) == 2


async def test_a_batch_of_nothing_but_poison_is_put_aside(ledger: asyncpg.Connection, writer: Writer) -> None:
    batch = [bad for kind in POISON.values() for bad in kind] * 2

    await writer.store(batch)

    assert await books.read(ledger) == NOTHING
    assert len(await books.dead_letters(ledger)) == len(batch) / 2


@pytest.mark.parametrize("at", [NOW_MS + FUTURE_MS, NOW_MS - OLDEST_MS])
async def test_the_bounds_of_time_are_within(at: int, ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact(at))])

    assert (await books.read(ledger)).events == 1


@examples
@given(raw=st.lists(st.binary(max_size=40) | st.just(orjson.dumps(fact())), max_size=8))
def test_judging_never_raises_and_loses_nothing(raw: list[bytes]) -> None:
    judged = judge([entry(item) for item in raw], NOW_MS)

    assert len(judged.rows) + len(judged.dead) == len(raw)


async def test_a_partition_that_is_missing_is_made_on_the_way(
    ledger: asyncpg.Connection, postgres_url: str, metrics: IngestMetrics
) -> None:
    """Nobody kept house for months, and the month has just changed."""
    later = datetime(2027, 1, 1, tzinfo=UTC)
    writer = Writer(partial(asyncpg.connect, postgres_url), metrics, now_ms=lambda: ms(later))

    await writer.store([entry(fact(ms(later)))])
    await writer.close()

    assert (await books.read(ledger)).events == 1
    assert await books.dead_letters(ledger) == {}


# Several workers, and things that break


async def test_two_workers_with_the_same_entries_count_each_once(
    ledger: asyncpg.Connection, new_writer: Callable[[], Writer], count: Callable[..., int]
) -> None:
    """Overlapping batches in different orders: they wait for each other and never deadlock."""
    events = [
        entry(fact(NOW_MS - n * 60_000, customer=None, external=f"user-{n % 5}", idem=f"{n}" if n % 3 == 0 else None))
        for n in range(300)
    ]

    async def work(writer: Writer, seed: int) -> None:
        shuffled = random.Random(seed).sample(events, len(events))
        for start in range(0, len(shuffled), 50):
            await writer.store(shuffled[start : start + 50])

    await asyncio.gather(*(work(new_writer(), seed) for seed in range(4)))

    assert await books.read(ledger) == Books(300, {"requests": 300, "bytes_out": 307_200})
    assert count("tollgate_events_written_total") == 300
    assert count("tollgate_duplicates_total") == 900


SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
CREATE TRIGGER slowly BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slowly();
"""


@pytest.mark.parametrize(
    ("table", "different"),
    [
        ("customers", lambda n: {"customer": None, "external": f"user-{n}"}),
        ("usage_idempotency", lambda n: {"idem": f"order-{n}"}),
        ("usage_events", lambda n: {"id": f"{NOW_MS:012x}{0x7000_8000_0000_0000_0000 + n:020x}"}),
        ("usage_hourly", lambda n: {"customer": f"cus_{n}"}),
    ],
)
async def test_workers_that_meet_in_a_table_wait_and_never_deadlock(
    table: str, different: Callable[[int], dict[str, Any]], ledger: asyncpg.Connection, new_writer: Callable[[], Writer]
) -> None:
    """The same rows in opposite orders, slowly enough to meet in the middle."""
    await ledger.execute(SLOWLY.format(table=table))
    batches = [[entry(fact() | different(n)) for n in order] for order in (range(8), reversed(range(8)))]

    await asyncio.gather(*(new_writer().store(batch) for batch in batches))

    assert (await books.read(ledger)).events == (8 if table in ("usage_events", "usage_idempotency") else 16)


async def _blocked_backend(ledger: asyncpg.Connection) -> int:
    """The process id of the server's backend that waits for a lock."""
    async with asyncio.timeout(5):
        while True:
            pid: int | None = await ledger.fetchval(
                "SELECT pid FROM pg_locks WHERE NOT granted AND database IS NOT NULL"
            )
            if pid is not None:
                return pid
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", ["terminated", "cancelled"])
async def test_a_batch_broken_off_in_the_middle_leaves_nothing_and_can_be_stored_again(
    how: str, ledger: asyncpg.Connection, writer: Writer
) -> None:
    batch = [entry(fact(customer=None, external="bob", idem="order-7")), entry(fact()), entry(b"poison")]
    async with ledger.transaction():
        await ledger.execute("LOCK TABLE usage_hourly IN EXCLUSIVE MODE")  # events are in, the rollup waits
        storing = asyncio.create_task(writer.store(batch))
        pid = await _blocked_backend(ledger)
        if how == "terminated":
            await ledger.execute("SELECT pg_terminate_backend($1)", pid)
            with pytest.raises(LedgerUnavailable):
                await storing
        else:
            storing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await storing
            async with asyncio.timeout(5):
                while await ledger.fetchval("SELECT count(*) FROM pg_locks WHERE pid = $1", pid):
                    await asyncio.sleep(0.005)
    for table in ("usage_events", "usage_hourly", "usage_idempotency", "customers", "dead_letters"):
        assert await ledger.fetchval(f"SELECT count(*) FROM {table}") == 0

    await writer.store(batch)

    assert await books.read(ledger) == Books(2, {"requests": 2, "bytes_out": 2048})
    assert len(await books.dead_letters(ledger)) == 1


async def test_a_writer_whose_idle_connection_was_ended_reconnects(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.ping()
    await ledger.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    try:
        await writer.store([entry(fact())])
    except LedgerUnavailable:  # it had not heard yet
        await writer.store([entry(fact())])

    assert (await books.read(ledger)).events == 1


@settings(examples, max_examples=40)
@given(data=st.data())
async def test_the_rollup_always_equals_the_events(
    ledger: asyncpg.Connection, new_writer: Callable[[], Writer], data: st.DataObject
) -> None:
    """Any events, delivered any number of times, in any batches: books.read compares."""
    writer = new_writer()
    known = await ledger.fetchval("SELECT count(*) FROM usage_events")
    meters = st.dictionaries(st.sampled_from(["requests", "tokens", "bytes_out"]), st.integers(0, 2**53), max_size=3)
    some = st.lists(
        st.builds(
            fact,
            at=st.integers(NOW_MS - 50 * HOUR_MS, NOW_MS),
            customer=st.sampled_from([None, "cus_ada", "cus_bob"]),
            key=st.sampled_from([None, "key_1"]),
            route=st.sampled_from([None, "rte_1"]),
            mode=st.sampled_from(["live", "test"]),
            meters=meters,
        ),
        min_size=1,
        max_size=12,
    )
    events = data.draw(some)
    batches = data.draw(st.lists(st.lists(st.sampled_from(events), max_size=8), max_size=4))

    for batch in [*batches, events]:
        await writer.store([entry(event) for event in batch])

    assert (await books.read(ledger)).events == known + len(events)
    await writer.close()
