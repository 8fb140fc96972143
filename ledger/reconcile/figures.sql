-- Statements of ledger/reconcile/figures.py. $1, $2: [from, to), $3: a project or NULL for all.

-- name: figures
WITH events AS (
    SELECT e.project_id, e.mode, coalesce(e.customer_id, '') AS customer_id, m.key AS meter, sum(m.value::numeric) AS events,
        sum(m.value::numeric) FILTER (WHERE b.meter IS NOT NULL AND e.customer_id IS NOT NULL) AS billable
    FROM usage_events e
    CROSS JOIN LATERAL jsonb_each(e.meters) m
    LEFT JOIN billed_meters b ON b.project_id = e.project_id AND b.mode = e.mode AND b.meter = m.key
        AND e.at >= b.since AND e.at < b.until
    WHERE e.at >= $1 AND e.at < $2 AND ($3::text IS NULL OR e.project_id = $3)
    GROUP BY 1, 2, 3, 4
),
hours AS (
    SELECT project_id, mode, customer_id, meter, sum(quantity) AS hourly
    FROM usage_hourly WHERE hour >= $1 AND hour < $2 AND ($3::text IS NULL OR project_id = $3) GROUP BY 1, 2, 3, 4
),
days AS (
    SELECT project_id, mode, customer_id, meter, sum(quantity) AS daily
    FROM usage_daily
    WHERE day >= ($1::timestamptz AT TIME ZONE 'UTC')::date AND day < ($2::timestamptz AT TIME ZONE 'UTC')::date
        AND ($3::text IS NULL OR project_id = $3)
    GROUP BY 1, 2, 3, 4
),
slots AS (
    SELECT project_id, mode, customer_id, meter, sum(counted) AS counted, sum(sealed) AS sealed,
        sum(greatest(sealed - counted, 0)) AS credit
    FROM billing_slots WHERE starts_at >= $1 AND starts_at < $2 AND ($3::text IS NULL OR project_id = $3) GROUP BY 1, 2, 3, 4
),
entries AS (
    SELECT project_id, mode, customer_id, meter, sum(quantity) FILTER (WHERE state <> 'replayed') AS entries,
        sum(value) FILTER (WHERE state = 'sent') AS sent, sum(value) FILTER (WHERE state = 'due') AS due,
        sum(value) FILTER (WHERE state = 'dead') AS dead, sum(quantity) FILTER (WHERE state = 'waived') AS waived
    FROM billing_entries WHERE starts_at >= $1 AND starts_at < $2 AND ($3::text IS NULL OR project_id = $3) GROUP BY 1, 2, 3, 4
),
seen AS (
    SELECT project_id, mode, customer_id, meter, sum(units) AS stripe
    FROM stripe_seen WHERE hour >= $1 AND hour < $2 AND ($3::text IS NULL OR project_id = $3) GROUP BY 1, 2, 3, 4
)
SELECT project_id, mode, customer_id, meter, coalesce(events, 0) AS events, coalesce(hourly, 0) AS hourly,
    coalesce(daily, 0) AS daily, billable, counted, sealed, credit, entries, sent, due, dead, waived, stripe
FROM events
FULL JOIN hours USING (project_id, mode, customer_id, meter)
FULL JOIN days USING (project_id, mode, customer_id, meter)
FULL JOIN slots USING (project_id, mode, customer_id, meter)
FULL JOIN entries USING (project_id, mode, customer_id, meter)
FULL JOIN seen USING (project_id, mode, customer_id, meter)
ORDER BY 1, 2, 3, 4;

-- name: hours_that_differ
SELECT coalesce(e.project_id, r.project_id) AS project_id, coalesce(e.mode, r.mode) AS mode, coalesce(e.hour, r.hour) AS hour,
    sum(abs(coalesce(e.quantity, 0) - coalesce(r.quantity, 0))) AS units
FROM (
    SELECT project_id, mode, date_trunc('hour', at, 'UTC') AS hour, coalesce(customer_id, '') AS customer_id,
        coalesce(key_id, '') AS key_id, coalesce(route_id, '') AS route_id, m.key AS meter, sum(m.value::numeric) AS quantity
    FROM usage_events, jsonb_each(meters) m
    WHERE at >= $1 AND at < $2 AND ($3::text IS NULL OR project_id = $3)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
) e
FULL JOIN (
    SELECT * FROM usage_hourly WHERE hour >= $1 AND hour < $2 AND ($3::text IS NULL OR project_id = $3)
) r USING (project_id, mode, hour, customer_id, key_id, route_id, meter)
WHERE coalesce(e.quantity, 0) <> coalesce(r.quantity, 0)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3;

-- name: days_that_differ
SELECT coalesce(e.project_id, r.project_id) AS project_id, coalesce(e.mode, r.mode) AS mode, coalesce(e.day, r.day) AS day,
    sum(abs(coalesce(e.quantity, 0) - coalesce(r.quantity, 0))) AS units
FROM (
    SELECT project_id, mode, (at AT TIME ZONE 'UTC')::date AS day, coalesce(customer_id, '') AS customer_id,
        coalesce(key_id, '') AS key_id, coalesce(route_id, '') AS route_id, m.key AS meter, sum(m.value::numeric) AS quantity
    FROM usage_events, jsonb_each(meters) m
    WHERE at >= $1 AND at < $2 AND ($3::text IS NULL OR project_id = $3)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
) e
FULL JOIN (
    SELECT * FROM usage_daily
    WHERE day >= ($1::timestamptz AT TIME ZONE 'UTC')::date AND day < ($2::timestamptz AT TIME ZONE 'UTC')::date
        AND ($3::text IS NULL OR project_id = $3)
) r USING (project_id, mode, day, customer_id, key_id, route_id, meter)
WHERE coalesce(e.quantity, 0) <> coalesce(r.quantity, 0)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3;

-- name: told
-- Whom Stripe was told of in the period, and where: an account that was changed since is asked about what it was told.
SELECT DISTINCT e.project_id, e.mode, e.customer_id, e.meter, e.event_name, CASE WHEN e.stripe_customer_id IS NULL
    THEN a.account ELSE e.account END AS account, coalesce(e.stripe_customer_id, c.stripe_customer_id) AS stripe_customer_id
FROM billing_entries e
LEFT JOIN stripe_accounts a ON a.project_id = e.project_id AND a.mode = e.mode
LEFT JOIN stripe_customers c ON c.project_id = e.project_id AND c.mode = e.mode AND c.customer_id = e.customer_id
WHERE e.state = 'sent' AND e.starts_at >= $1 AND e.starts_at < $2 AND ($3::text IS NULL OR e.project_id = $3)
    AND e.mode = ANY($4) AND coalesce(e.stripe_customer_id, c.stripe_customer_id) IS NOT NULL
ORDER BY 1, 2, 3, 4, 5, 6, 7;

-- name: told_hours
SELECT date_trunc('hour', starts_at, 'UTC') AS hour, sum(value) FILTER (WHERE state = 'sent') AS sent,
    bool_or(state = 'due' AND doubt_since IS NOT NULL) AS is_in_doubt, max(sent_at) AS last_sent_at
FROM billing_entries
WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND meter = $4 AND starts_at >= $5 AND starts_at < $6
    AND (stripe_customer_id IS NULL OR (stripe_customer_id = $7 AND coalesce(account, '') = coalesce($8, '')))
    AND event_name = $9
GROUP BY 1;

-- name: forget_seen
-- What is not of this look ($7).
DELETE FROM stripe_seen
WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND meter = $4 AND hour >= $5 AND hour < $6 AND seen_at <> $7;

-- name: keep_seen
-- Units of one look ($7) add up, where usage of one customer was sent to several places.
INSERT INTO stripe_seen (project_id, mode, customer_id, meter, hour, units, seen_at)
SELECT $1, $2, $3, $4, h.hour, h.units, $7 FROM unnest($5::timestamptz[], $6::numeric[]) AS h (hour, units)
ON CONFLICT (project_id, mode, customer_id, meter, hour) DO UPDATE
SET units = CASE WHEN stripe_seen.seen_at = $7 THEN stripe_seen.units ELSE 0 END + excluded.units, seen_at = excluded.seen_at;

-- name: keep_report
INSERT INTO reconciliations (began_at, period_start, period_end, project_id, is_repair, drift, report)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id;

-- name: newest
SELECT ended_at FROM reconciliations WHERE project_id IS NULL ORDER BY ended_at DESC LIMIT 1;

-- name: owners
-- The project and the anchor of quota periods of each owner of a counter: a customer, or a project itself.
SELECT c.id AS owner, c.project_id, c.mode, s.anchor_at
FROM customers c LEFT JOIN subscriptions s ON s.customer_id = c.id AND s.status <> 'canceled'
WHERE c.id = ANY($1)
UNION ALL
SELECT p.id, p.id, NULL, NULL FROM projects p WHERE p.id = ANY($1);

-- name: used_since
SELECT coalesce(sum((e.meters ->> $4)::numeric), 0)
FROM usage_events e
WHERE e.project_id = $1 AND e.mode = $2 AND e.customer_id IS NOT DISTINCT FROM $3 AND e.at >= $5 AND e.at < $6;

-- name: corrections_since
-- What corrections added to a meter in a period, by when they were made, the last first.
SELECT sum((e.meters ->> $4)::numeric) AS quantity
FROM usage_events e
WHERE e.project_id = $1 AND e.mode = $2 AND e.customer_id IS NOT DISTINCT FROM $3 AND e.at >= $5 AND e.at < $6
    AND e.corrects IS NOT NULL AND e.meters ? $4
GROUP BY e.stored_at
ORDER BY e.stored_at DESC;

-- name: is_archived
-- Whether some of the period's events live in files: then they cannot be compared with anything.
SELECT EXISTS (SELECT FROM archives WHERE starts_at < $2 AND ends_at > $1);
