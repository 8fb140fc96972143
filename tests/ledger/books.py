"""What the ledger says, for tests to compare: totals, and whether the rollup agrees with the events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

_TOTALS = """
SELECT m.key AS meter, sum(m.value::numeric)::bigint AS quantity
FROM usage_events, jsonb_each(meters) m GROUP BY m.key
"""

# Rows that a rollup should have and has not, or has and should not have. EXCEPT ALL both ways.
_DRIFT = """
WITH expected AS (
    SELECT project_id, mode, to_timestamp(floor(extract(epoch FROM at) / {seconds}) * {seconds}) AS slot,
        coalesce(customer_id, ''), coalesce(key_id, ''), coalesce(route_id, ''), m.key, sum(m.value::numeric),
        count(*) FILTER (WHERE corrects IS NULL), sum({duration})
    FROM usage_events, jsonb_each(meters) m GROUP BY 1, 2, 3, 4, 5, 6, 7
), actual AS (
    SELECT project_id, mode, {slot}, customer_id, key_id, route_id, meter, quantity, events, {duration}
    FROM {rollup}
)
SELECT 'missing', * FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM actual) a
UNION ALL
SELECT 'too much', * FROM (SELECT * FROM actual EXCEPT ALL SELECT * FROM expected) b
"""


_HOURLY = _DRIFT.format(rollup="usage_hourly", slot="hour", seconds=3600, duration="0")
_DAILY = _DRIFT.format(
    rollup="usage_daily", slot="day::timestamp AT TIME ZONE 'UTC'", seconds=86_400, duration="duration_us"
)


@dataclass(frozen=True, slots=True)
class Books:
    """Number of events, and the sum of each meter over them."""

    events: int
    meters: dict[str, int]


async def read(pg: asyncpg.Connection) -> Books:
    """The totals over all events; fails where a rollup says anything else."""
    for drift in (_HOURLY, _DAILY):
        assert [tuple(row) for row in await pg.fetch(drift)] == []
    meters = {row["meter"]: row["quantity"] for row in await pg.fetch(_TOTALS)}
    return Books(await pg.fetchval("SELECT count(*) FROM usage_events"), meters)


async def rollup(pg: asyncpg.Connection, meter: str = "requests") -> dict[tuple[datetime, str], tuple[int, int]]:
    """One meter's rows of the rollup: (hour, customer) → (quantity, events)."""
    rows = await pg.fetch("SELECT hour, customer_id, quantity, events FROM usage_hourly WHERE meter = $1", meter)
    return {(row["hour"], row["customer_id"]): (int(row["quantity"]), row["events"]) for row in rows}


async def dead_letters(pg: asyncpg.Connection) -> dict[str, str]:
    """Entry id → reason."""
    return {row["entry_id"]: row["reason"] for row in await pg.fetch("SELECT entry_id, reason FROM dead_letters")}
