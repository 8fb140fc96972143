-- Statements of ledger/billing/billed.py.

-- name: lock
-- Alone: every batch of events is stored either before, and counted by `backfill`, or after, and sees the new row.
SELECT pg_advisory_xact_lock(7240318803);

-- name: connect
INSERT INTO stripe_accounts (project_id, mode, account) VALUES ($1, $2, $3)
ON CONFLICT (project_id, mode) DO UPDATE SET account = $3, connected_at = now();

-- name: disconnect
DELETE FROM stripe_accounts WHERE project_id = $1 AND mode = $2;

-- name: link
INSERT INTO stripe_customers (project_id, mode, customer_id, stripe_customer_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (project_id, mode, customer_id) DO UPDATE SET stripe_customer_id = $4, linked_at = now();

-- name: bill
INSERT INTO billed_meters (project_id, mode, meter, event_name, since) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (project_id, mode, meter) DO NOTHING
RETURNING since;

-- name: rename
UPDATE billed_meters SET event_name = $4 WHERE project_id = $1 AND mode = $2 AND meter = $3
RETURNING since, until;

-- name: stop
UPDATE billed_meters SET until = least(until, $4) WHERE project_id = $1 AND mode = $2 AND meter = $3
RETURNING until;

-- name: backfill
INSERT INTO billing_slots (project_id, mode, customer_id, meter, starts_at, ends_at, period, counted)
SELECT
    f.project_id, f.mode, f.customer_id, $3, greatest(h.hour, p.period), least(h.hour + interval '1 hour', p.next),
    p.period, sum((f.meters ->> $3)::bigint)
FROM usage_events f
LEFT JOIN subscriptions s ON s.customer_id = f.customer_id AND s.status <> 'canceled'
CROSS JOIN LATERAL (SELECT date_trunc('hour', f.at, 'UTC') AS hour) h
CROSS JOIN LATERAL (
    SELECT
        period_start(s.anchor_at, f.at) AS period,
        nullif(period_start(s.anchor_at, h.hour + interval '1 hour'), period_start(s.anchor_at, f.at)) AS next
) p
WHERE f.project_id = $1 AND f.mode = $2 AND f.at >= $4 AND f.customer_id IS NOT NULL AND f.meters ? $3
GROUP BY 1, 2, 3, 4, 5, 6, 7
HAVING sum((f.meters ->> $3)::bigint) <> 0;

-- name: list
SELECT meter, event_name, since, until FROM billed_meters WHERE project_id = $1 AND mode = $2 ORDER BY meter;

-- name: status
SELECT
    (SELECT jsonb_build_object('account', account) FROM stripe_accounts WHERE project_id = $1 AND mode = $2)::text AS connected,
    (SELECT coalesce(jsonb_object_agg(state, jsonb_build_object('entries', n, 'units', units)), '{}')
        FROM (SELECT state, count(*) AS n, sum(value) AS units FROM billing_entries
              WHERE project_id = $1 AND mode = $2 GROUP BY state) e)::text AS entries,
    count(*) FILTER (WHERE s.is_pending) AS pending_slots,
    coalesce(sum(counted - sealed), 0) AS pending_units,
    count(DISTINCT s.customer_id) FILTER (WHERE c.customer_id IS NULL) AS unlinked
FROM billing_slots s
LEFT JOIN stripe_customers c ON c.project_id = s.project_id AND c.mode = s.mode AND c.customer_id = s.customer_id
WHERE s.project_id = $1 AND s.mode = $2;
