"""A ledger that has been in use: many events of the past four weeks, with the rollups and billing slots that belong to them.

Made by the server itself, in one statement per table and without indexes, which are made again afterwards: two million
rows take some 20 s. The events are of 1,000 customers, evenly over the time, in its order, and end two hours ago.
"""

from __future__ import annotations

from typing import Final

import asyncpg

CUSTOMERS: Final = 1_000
_EVENTS: Final = """
INSERT INTO usage_events (id, at, project_id, mode, customer_id, key_id, route_id, method, status, outcome, meters,
    duration_us, upstream_us)
SELECT uuidv7(made.at - now()), made.at, 'prj_acme', 'live', 'cus_' || lpad((n % {customers})::text, 26, '0'),
    'key_' || lpad((n % {customers})::text, 26, '0'), 'rte_' || lpad('1', 26, '0'), 'GET', 200, 'completed',
    '{{"requests": 1, "bytes_in": 120, "bytes_out": 1024}}', 1830, 1200
FROM generate_series(1, {rows}) AS n
CROSS JOIN LATERAL (
    SELECT date_trunc('milliseconds', now() - interval '28 days' + n * (interval '27 days 22 hours' / {rows})) AS at
) made
"""
_HOURS: Final = """
INSERT INTO usage_hourly (project_id, mode, hour, customer_id, key_id, route_id, meter, quantity, events)
SELECT e.project_id, e.mode, e.hour, e.customer_id, e.key_id, e.route_id, m.meter, e.events * m.each, e.events
FROM (
    SELECT project_id, mode, date_trunc('hour', at, 'UTC') AS hour, customer_id, key_id, route_id, count(*) AS events
    FROM usage_events WHERE at <= now() - interval '2 hours' GROUP BY 1, 2, 3, 4, 5, 6
) e, (VALUES ('requests', 1), ('bytes_in', 120), ('bytes_out', 1024)) AS m (meter, each)
"""
_DAYS: Final = """
INSERT INTO usage_daily (project_id, mode, day, customer_id, key_id, route_id, meter, quantity, events, duration_us)
SELECT project_id, mode, (hour AT TIME ZONE 'UTC')::date, customer_id, key_id, route_id, meter, sum(quantity), sum(events),
    sum(events) * 1830
FROM usage_hourly WHERE hour <= now() - interval '2 hours'
GROUP BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (project_id, mode, day, customer_id, key_id, route_id, meter) DO UPDATE
SET quantity = usage_daily.quantity + excluded.quantity, events = usage_daily.events + excluded.events
"""
_SLOTS: Final = """
INSERT INTO billing_slots (project_id, mode, customer_id, meter, starts_at, ends_at, period, counted)
SELECT project_id, mode, customer_id, meter, hour, hour + interval '1 hour', period_start(NULL, hour), quantity
FROM usage_hourly
WHERE meter = 'requests' AND hour <= now() - interval '2 hours'
"""


async def seed(connection: asyncpg.Connection, rows: int) -> None:
    """Add `rows` events to the ledger, and leave it as a server that has come to rest."""
    key = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'usage_events_pkey'"
    )
    index = await connection.fetchval("SELECT pg_get_indexdef('usage_events_customer'::regclass)")
    await connection.execute("SET maintenance_work_mem = '1GB'; SET work_mem = '256MB'")
    await connection.execute("ALTER TABLE usage_events DROP CONSTRAINT usage_events_pkey")
    await connection.execute("DROP INDEX usage_events_customer")
    await connection.execute(_EVENTS.format(rows=rows, customers=CUSTOMERS), timeout=3600)
    await connection.execute(f"ALTER TABLE usage_events ADD CONSTRAINT usage_events_pkey {key}", timeout=3600)
    await connection.execute(index, timeout=3600)
    for statement in (_HOURS, _DAYS, _SLOTS):
        await connection.execute(statement, timeout=3600)
    await connection.execute("VACUUM (ANALYZE)", timeout=3600)  # which a server would do meanwhile, and be slower
