-- Statements of ledger/reconcile/repair.py. All run under the lock that keeps ingest out (see ledger/billing/billed.sql).

-- name: begin_repair
-- One repair at a time, from its look to its end; goes with the session.
SELECT pg_advisory_lock(7240318807);

-- name: end_repair
SELECT pg_advisory_unlock(7240318807);

-- name: clear_hour
DELETE FROM usage_hourly WHERE project_id = $1 AND mode = $2 AND hour = $3;

-- name: roll_up_hour
INSERT INTO usage_hourly (project_id, mode, hour, customer_id, key_id, route_id, meter, quantity, events)
SELECT e.project_id, e.mode, $3::timestamptz, coalesce(e.customer_id, ''), coalesce(e.key_id, ''), coalesce(e.route_id, ''),
    m.key, sum(m.value::numeric), count(*) FILTER (WHERE e.corrects IS NULL)
FROM usage_events e, jsonb_each(e.meters) m
WHERE e.project_id = $1 AND e.mode = $2 AND e.at >= $3 AND e.at < $3::timestamptz + interval '1 hour'
GROUP BY 1, 2, 3, 4, 5, 6, 7;

-- name: clear_day
DELETE FROM usage_daily WHERE project_id = $1 AND mode = $2 AND day = ($3::timestamptz AT TIME ZONE 'UTC')::date;

-- name: roll_up_day
INSERT INTO usage_daily (project_id, mode, day, customer_id, key_id, route_id, meter, quantity, events, duration_us)
SELECT e.project_id, e.mode, ($3::timestamptz AT TIME ZONE 'UTC')::date, coalesce(e.customer_id, ''), coalesce(e.key_id, ''),
    coalesce(e.route_id, ''), m.key, sum(m.value::numeric), count(*) FILTER (WHERE e.corrects IS NULL), sum(e.duration_us)
FROM usage_events e, jsonb_each(e.meters) m
WHERE e.project_id = $1 AND e.mode = $2 AND e.at >= $3 AND e.at < $3::timestamptz + interval '1 day'
GROUP BY 1, 2, 3, 4, 5, 6, 7;

-- name: adjust_slot
-- The hour's last slot takes the difference; the hour gets one where it has none.
WITH last AS (
    SELECT starts_at FROM billing_slots
    WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND meter = $4 AND starts_at >= $5
        AND starts_at < $5::timestamptz + interval '1 hour'
    ORDER BY starts_at DESC LIMIT 1
)
INSERT INTO billing_slots (project_id, mode, customer_id, meter, starts_at, ends_at, period, counted)
SELECT $1, $2, $3, $4, coalesce((SELECT starts_at FROM last), $5), $5::timestamptz + interval '1 hour',
    period_start((SELECT anchor_at FROM subscriptions WHERE customer_id = $3 AND status <> 'canceled'), $5), $6::numeric
ON CONFLICT (project_id, mode, customer_id, meter, starts_at) DO UPDATE
SET counted = billing_slots.counted + excluded.counted, pending_since = now();

-- name: raise_sealed
-- Never lower: an entry that is missing here may have been sent.
UPDATE billing_slots SET sealed = greatest(sealed, $6::numeric), entries = greatest(entries, (
        SELECT coalesce(max(sequence) + 1, 0) FROM billing_entries e
        WHERE e.project_id = $1 AND e.mode = $2 AND e.customer_id = $3 AND e.meter = $4 AND e.starts_at = $5
    )), pending_since = now()
WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND meter = $4 AND starts_at = $5 AND sealed < $6::numeric;

-- name: sent_of_hour
SELECT id, starts_at, value FROM billing_entries
WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND meter = $4 AND starts_at >= $5
    AND starts_at < $5::timestamptz + interval '1 hour' AND state = 'sent' AND value > 0
ORDER BY id
FOR UPDATE;

-- name: count_as_sent
-- What Stripe has beyond what it was told, as an entry that is sent already: the slot owes it back from now on.
WITH slot AS (
    UPDATE billing_slots SET sealed = sealed + $6::numeric, entries = entries + 1, pending_since = now()
    WHERE (project_id, mode, customer_id, meter, starts_at) = (
        SELECT project_id, mode, customer_id, meter, starts_at FROM billing_slots
        WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND meter = $4 AND starts_at >= $5
            AND starts_at < $5::timestamptz + interval '1 hour'
        ORDER BY starts_at LIMIT 1
    )
    RETURNING starts_at, entries - 1 AS sequence
)
INSERT INTO billing_entries (
    project_id, mode, customer_id, meter, starts_at, sequence, identifier, quantity, value, state, reason, event_name, sent_at
)
SELECT $1, $2, $3, $4, starts_at, sequence, 'found_in_stripe_' || gen_random_uuid(), $6::numeric, $6::numeric, 'sent',
    'excess', (SELECT event_name FROM billed_meters WHERE project_id = $1 AND mode = $2 AND meter = $4), now()
FROM slot
RETURNING identifier;

-- name: replay
-- The entries stand no longer; their slots owe them again and are sealed anew, under new identifiers.
WITH gone AS (
    UPDATE billing_entries e SET state = 'replayed'
    WHERE e.id = ANY($1) AND e.state = ANY($2)
        AND NOT EXISTS (SELECT FROM billing_entries n WHERE n.netted_into = e.identifier AND n.state = 'netted')
    RETURNING project_id, mode, customer_id, meter, starts_at, quantity, identifier
),
slots AS (
    UPDATE billing_slots s SET sealed = s.sealed - g.quantity, pending_since = now()
    FROM (
        SELECT project_id, mode, customer_id, meter, starts_at, sum(quantity) AS quantity FROM gone GROUP BY 1, 2, 3, 4, 5
    ) g
    WHERE (s.project_id, s.mode, s.customer_id, s.meter, s.starts_at)
        = (g.project_id, g.mode, g.customer_id, g.meter, g.starts_at)
)
SELECT identifier FROM gone ORDER BY identifier;
