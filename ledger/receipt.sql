-- Statements of ledger/receipt.py.

-- name: event
SELECT e.*, e.meters::text AS meters_text, to_jsonb(e) ->> 'notes' AS notes_text
FROM usage_events e
WHERE e.project_id = $1 AND e.mode = $2 AND e.at >= $3 AND e.at <= $4 AND e.id = $5;

-- name: corrections
SELECT id, outcome, actor, reason, meters::text AS meters, stored_at
FROM usage_events
WHERE project_id = $1 AND at = $2 AND corrects = $3
ORDER BY stored_at, id;

-- name: rollups
SELECT 'hour' AS span, hour AS start, meter, quantity, events
FROM usage_hourly
WHERE project_id = $1 AND mode = $2 AND hour = date_trunc('hour', $3::timestamptz, 'UTC') AND customer_id = $4
    AND key_id = $5 AND route_id = $6 AND meter = ANY($7)
UNION ALL
SELECT 'day', day::timestamp AT TIME ZONE 'UTC', meter, quantity, events
FROM usage_daily
WHERE project_id = $1 AND mode = $2 AND day = ($3::timestamptz AT TIME ZONE 'UTC')::date AND customer_id = $4
    AND key_id = $5 AND route_id = $6 AND meter = ANY($7)
ORDER BY 3, 1 DESC;

-- name: slots
SELECT s.meter, s.starts_at, s.ends_at, s.counted, s.sealed, v.units AS seen_units, v.seen_at,
    coalesce((SELECT sum(value) FROM billing_entries e WHERE e.project_id = s.project_id AND e.mode = s.mode
        AND e.customer_id = s.customer_id AND e.meter = s.meter AND e.state = 'sent'
        AND date_trunc('hour', e.starts_at, 'UTC') = date_trunc('hour', s.starts_at, 'UTC')), 0) AS told_units
FROM billing_slots s
LEFT JOIN stripe_seen v ON v.project_id = s.project_id AND v.mode = s.mode AND v.customer_id = s.customer_id
    AND v.meter = s.meter AND v.hour = date_trunc('hour', s.starts_at, 'UTC')
WHERE s.project_id = $1 AND s.mode = $2 AND s.customer_id = $3 AND s.starts_at <= $4 AND s.ends_at > $4;

-- name: entries
SELECT meter, identifier, sequence, quantity, value, state, reason, attempts, last_error, created_at, sent_at
FROM billing_entries
WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND starts_at = ANY($4) AND meter = ANY($5)
ORDER BY meter, starts_at, sequence;
