"""Partitions: every month an event may belong to has one, whoever makes them, and `changes` does not grow for ever."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.ingest import FUTURE_MS, OLDEST_MS
from ledger.partitions import MONTHS_BACK, ensure_partitions, months, trim_changes
from tests.ledger.facts import NOW, examples

moments = st.datetimes(datetime(2000, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC))


@examples
@given(now=moments, ahead=st.integers(1, 24))
def test_months_follow_each_other_and_hold_every_event_that_is_taken(now: datetime, ahead: int) -> None:
    found = months(now, MONTHS_BACK, ahead)

    assert len(found) == MONTHS_BACK + 1 + ahead
    assert all(one[1] == two[0] for one, two in pairwise(found))
    assert all(start.day == 1 and start.time() == datetime.min.time() for start, _ in found)
    assert found[MONTHS_BACK][0] <= now < found[MONTHS_BACK][1]
    assert found[0][0] <= now - timedelta(milliseconds=OLDEST_MS)
    assert now + timedelta(milliseconds=FUTURE_MS) < found[-1][1]


async def test_partitions_are_made_once_and_take_events(pg: asyncpg.Connection) -> None:
    assert await ensure_partitions(pg, datetime(2026, 12, 31, 23, 59, tzinfo=UTC), ahead=2) == [
        "usage_events_2026_10",
        "usage_events_2026_11",
        "usage_events_2026_12",
        "usage_events_2027_01",
        "usage_events_2027_02",
    ]
    assert await ensure_partitions(pg, datetime(2027, 1, 1, tzinfo=UTC), ahead=2) == ["usage_events_2027_03"]
    assert await ensure_partitions(pg, datetime(2027, 1, 31, tzinfo=UTC), ahead=2) == []


async def test_a_partition_has_the_keys_and_defaults_of_the_whole(pg: asyncpg.Connection) -> None:
    await ensure_partitions(pg, NOW)

    indexes = await pg.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'usage_events_2026_03' ORDER BY 1")
    assert [row["indexdef"].partition(" USING ")[2] for row in indexes] == [
        "btree (project_id, customer_id, at DESC)",
        "btree (project_id, at, id)",
    ]
    defaults = (
        "SELECT column_default FROM information_schema.columns WHERE table_name = $1 AND column_name = 'stored_at'"
    )
    assert await pg.fetchval(defaults, "usage_events_2026_03") == "now()"


async def test_the_time_zone_of_the_session_does_not_move_the_months(pg: asyncpg.Connection) -> None:
    await pg.execute("SET timezone = 'Pacific/Auckland'")

    await ensure_partitions(pg, NOW)

    bounds = await pg.fetchval(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'usage_events_2026_03'"
    )
    assert "'2026-03-01 13:00:00+13'" in bounds


async def test_workers_that_start_together_make_each_partition_once(postgres_url: str) -> None:
    connections = [await asyncpg.connect(postgres_url) for _ in range(4)]
    try:
        made = await asyncio.gather(*(ensure_partitions(connection, NOW) for connection in connections))
    finally:
        for connection in connections:
            await connection.close(timeout=5)

    assert sorted(len(names) for names in made) == [0, 0, 0, 4]


async def test_making_partitions_waits_for_no_writer(pg: asyncpg.Connection, postgres_url: str) -> None:
    await ensure_partitions(pg, NOW)
    writer = await asyncpg.connect(postgres_url)
    try:
        async with writer.transaction():
            await writer.execute("LOCK TABLE usage_events IN ROW EXCLUSIVE MODE")  # what an INSERT holds
            made = await asyncio.wait_for(ensure_partitions(pg, NOW, ahead=2), 5)
    finally:
        await writer.close(timeout=5)

    assert made == ["usage_events_2026_05"]


@pytest.mark.parametrize("ages", [[30, 25, 23, 0], [30, 25], [23, 0], []])
async def test_changes_older_than_a_day_are_trimmed_except_the_newest(ages: list[int], pg: asyncpg.Connection) -> None:
    await pg.execute("DELETE FROM changes")
    for hours in ages:
        await pg.execute(
            "INSERT INTO changes (noun, object_id, project_id, at) VALUES ('key', $2, 'p', now() - $1 * interval '1 h')",
            hours,
            str(hours),
        )

    trimmed = await trim_changes(pg)

    left = [int(row["object_id"]) for row in await pg.fetch("SELECT object_id FROM changes ORDER BY revision")]
    assert left == ([hours for hours in ages if hours < 24] or ages[-1:])
    assert trimmed == len(ages) - len(left)
