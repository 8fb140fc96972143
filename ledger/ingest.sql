-- Statements of ledger/ingest.py. Every statement that takes locks takes them in one order (sorted), over the tables in
-- one order (customers, usage_idempotency, usage_events, usage_hourly, usage_daily, billing_slots, keys), so workers wait
-- for each other and never deadlock.

-- name: session
-- A worker that stalls inside a transaction must not hold others up for long; and an acknowledged event must be on disk.
SET synchronous_commit = on;
SET statement_timeout = '20s';
SET idle_in_transaction_session_timeout = '60s';
SET client_connection_check_interval = '1s';  -- locks of a worker that was killed go with it
SET jit = off;

-- name: begin
-- The lock is shared; who changes which meters are billed takes it alone (ledger/billing/billed.sql).
BEGIN;
SELECT pg_advisory_xact_lock_shared(7240318803);

-- name: finish
-- In one message: rows that others wait for are locked no longer than it takes the server.
EXECUTE {store};
EXECUTE touch_keys;
COMMIT;

-- name: inserted
SELECT current_setting('tollgate.inserted')::bigint;

-- name: staging
CREATE TEMP TABLE IF NOT EXISTS usage_staging (
    id           uuid NOT NULL,
    at_ms        bigint NOT NULL,
    project_id   text NOT NULL,
    mode         text NOT NULL,
    customer_id  text,
    external_id  text,
    key_id       text,
    route_id     text,
    method       text NOT NULL,
    status       smallint NOT NULL,
    outcome      text NOT NULL,
    meters       jsonb NOT NULL,
    duration_us  bigint NOT NULL,
    upstream_us  bigint NOT NULL,
    idem         text,
    corrects     uuid,
    actor        text,
    reason       text,
    notes        jsonb
) ON COMMIT DELETE ROWS;

-- name: insert_customers
-- Customers first met at a gateway. A project deleted meanwhile keeps its facts but gets no new customers.
INSERT INTO customers (id, project_id, mode, external_id, origin)
SELECT DISTINCT s.customer_id, s.project_id, s.mode, s.external_id, 'seen'
FROM usage_staging s
JOIN projects p ON p.id = s.project_id
WHERE s.external_id IS NOT NULL
ORDER BY s.customer_id
ON CONFLICT DO NOTHING;

-- name: claim_idempotency
-- Of the events that share a caller's idempotency key the one admitted first counts, and the claim stays its own.
INSERT INTO usage_idempotency (project_id, mode, owner, idem, event_id, at)
SELECT DISTINCT ON (project_id, mode, coalesce(customer_id, ''), idem)
    project_id, mode, coalesce(customer_id, ''), idem, id, 'epoch'::timestamptz + at_ms * interval '1 millisecond'
FROM usage_staging
WHERE idem IS NOT NULL
ORDER BY project_id, mode, coalesce(customer_id, ''), idem, at_ms, id
ON CONFLICT DO NOTHING;

-- name: insert_events
-- The facts, and the rollups and billing slots of exactly those facts that are new. Returns how many were, and keeps it.
-- Without {on_conflict} it is a tenth cheaper, and fails where any of them is there already.
WITH fresh AS (
    INSERT INTO usage_events (
        project_id, at, id, mode, customer_id, key_id, route_id, method, status, outcome, meters, duration_us, upstream_us,
        corrects, actor, reason, notes
    )
    SELECT
        s.project_id, 'epoch'::timestamptz + s.at_ms * interval '1 millisecond', s.id, s.mode, s.customer_id, s.key_id,
        s.route_id, s.method, s.status, s.outcome, s.meters, s.duration_us, s.upstream_us, s.corrects, s.actor, s.reason,
        s.notes
    FROM usage_staging s
    WHERE s.idem IS NULL OR s.id = (  -- a scalar, not EXISTS: never planned as a scan of all claims
        SELECT c.event_id
        FROM usage_idempotency c
        WHERE c.project_id = s.project_id AND c.mode = s.mode AND c.owner = coalesce(s.customer_id, '') AND c.idem = s.idem
    )
    ORDER BY s.project_id, s.at_ms, s.id
    {on_conflict}
    RETURNING project_id, mode, at, customer_id, key_id, route_id, meters, duration_us, corrects
),
sums AS MATERIALIZED (
    SELECT g.project_id, g.mode, g.hour, g.customer_id, g.key_id, g.route_id, m.meter, m.quantity, m.events, m.duration_us
    FROM (
        SELECT
            project_id, mode, date_trunc('hour', at, 'UTC') AS hour, coalesce(customer_id, '') AS customer_id,
            coalesce(key_id, '') AS key_id, coalesce(route_id, '') AS route_id, array_agg(meters) AS all_meters,
            array_agg(duration_us) AS all_us, array_agg((corrects IS NULL)::int) AS all_events
        FROM fresh
        GROUP BY 1, 2, 3, 4, 5, 6
    ) g
    CROSS JOIN LATERAL (  -- within a group, meters are few: a quarter faster than grouping by all seven at once
        SELECT e.key AS meter, sum(e.value::bigint) AS quantity, sum(one.events) AS events, sum(one.us) AS duration_us
        FROM unnest(g.all_meters, g.all_us, g.all_events) AS one (meters, us, events), jsonb_each(one.meters) AS e
        GROUP BY e.key
    ) m
),
hours AS (
    INSERT INTO usage_hourly (project_id, mode, hour, customer_id, key_id, route_id, meter, quantity, events)
    SELECT project_id, mode, hour, customer_id, key_id, route_id, meter, quantity, events
    FROM sums
    ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (project_id, mode, hour, customer_id, key_id, route_id, meter) DO UPDATE
    SET quantity = usage_hourly.quantity + excluded.quantity, events = usage_hourly.events + excluded.events
),
days AS (
    INSERT INTO usage_daily (project_id, mode, day, customer_id, key_id, route_id, meter, quantity, events, duration_us)
    SELECT
        project_id, mode, (hour AT TIME ZONE 'UTC')::date, customer_id, key_id, route_id, meter, sum(quantity),
        sum(events), sum(duration_us)
    FROM sums
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (project_id, mode, day, customer_id, key_id, route_id, meter) DO UPDATE
    SET quantity = usage_daily.quantity + excluded.quantity, events = usage_daily.events + excluded.events,
        duration_us = usage_daily.duration_us + excluded.duration_us
),
billed AS MATERIALIZED (  -- by the hour: only an hour that is cut looks at its events one by one
    SELECT
        g.*, b.since, b.until, s.anchor_at, period_start(s.anchor_at, g.hour) AS period,
        b.since <= g.hour AND b.until >= g.hour + interval '1 hour' AND period_start(s.anchor_at, g.hour)
            = period_start(s.anchor_at, g.hour + interval '1 hour' - interval '1 microsecond') AS is_whole
    FROM (
        SELECT project_id, mode, customer_id, meter, hour, sum(quantity) AS quantity
        FROM sums
        WHERE customer_id <> ''
        GROUP BY 1, 2, 3, 4, 5
    ) g
    JOIN billed_meters b ON b.project_id = g.project_id AND b.mode = g.mode AND b.meter = g.meter
        AND b.since < g.hour + interval '1 hour' AND b.until > g.hour
    LEFT JOIN subscriptions s ON s.customer_id = g.customer_id AND s.status <> 'canceled'
),
slots AS (
    INSERT INTO billing_slots (project_id, mode, customer_id, meter, starts_at, ends_at, period, counted)
    SELECT project_id, mode, customer_id, meter, hour, hour + interval '1 hour', period, quantity
    FROM billed
    WHERE is_whole AND quantity <> 0
    UNION ALL
    SELECT
        b.project_id, b.mode, b.customer_id, b.meter, greatest(b.hour, p.period),
        CASE WHEN p.next > p.period THEN p.next ELSE b.hour + interval '1 hour' END, p.period,
        sum((f.meters ->> b.meter)::bigint)
    FROM billed b
    JOIN fresh f ON f.project_id = b.project_id AND f.mode = b.mode AND f.customer_id = b.customer_id
        AND f.at >= b.hour AND f.at < b.hour + interval '1 hour' AND f.at >= b.since AND f.at < b.until AND f.meters ? b.meter
    CROSS JOIN LATERAL (
        SELECT
            period_start(b.anchor_at, f.at) AS period,
            period_start(b.anchor_at, b.hour + interval '1 hour' - interval '1 microsecond') AS next
    ) p
    WHERE NOT b.is_whole
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    HAVING sum((f.meters ->> b.meter)::bigint) <> 0
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (project_id, mode, customer_id, meter, starts_at) DO UPDATE
    SET counted = billing_slots.counted + excluded.counted,
        pending_since = CASE WHEN billing_slots.counted = billing_slots.sealed THEN now() ELSE billing_slots.pending_since END
)
SELECT set_config('tollgate.inserted', count(*)::text, false)::bigint FROM fresh;

-- name: touch_keys
-- At most once a minute per key; a key that someone is changing right now is left for next time.
UPDATE keys
SET last_used_at = due.at
FROM (
    SELECT k.id, used.at
    FROM (
        SELECT key_id, project_id, 'epoch'::timestamptz + max(at_ms) * interval '1 millisecond' AS at
        FROM usage_staging
        WHERE key_id IS NOT NULL
        GROUP BY key_id, project_id
    ) used
    JOIN keys k ON k.id = used.key_id AND k.project_id = used.project_id
    WHERE k.last_used_at IS NULL OR k.last_used_at <= used.at - interval '1 minute'
    FOR NO KEY UPDATE OF k SKIP LOCKED
) due
WHERE keys.id = due.id;

-- name: insert_dead_letters
INSERT INTO dead_letters (stream, entry_id, payload, reason)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[])
ON CONFLICT DO NOTHING;
