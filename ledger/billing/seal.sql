-- Statements of ledger/billing/seal.py.

-- name: pending
-- Slots that are over and settled and have something to be told, oldest first, with whom to tell. $1 now, $2 how many,
-- $3 how long after its end (and after what made it pending) a slot is left open, $4 the oldest that Stripe takes.
-- A slot nobody can be told of (not connected, no Stripe customer) waits until it is too old, and is waived then.
SELECT s.project_id, s.mode, s.customer_id, s.meter, s.starts_at, s.period, s.counted - s.sealed AS pending, s.entries,
    b.event_name, c.stripe_customer_id IS NULL OR a.project_id IS NULL AS is_unreachable
FROM billing_slots s
JOIN billed_meters b ON b.project_id = s.project_id AND b.mode = s.mode AND b.meter = s.meter
LEFT JOIN stripe_accounts a ON a.project_id = s.project_id AND a.mode = s.mode
LEFT JOIN stripe_customers c ON c.project_id = s.project_id AND c.mode = s.mode AND c.customer_id = s.customer_id
WHERE s.is_pending AND s.counted > s.sealed AND s.ends_at <= $1::timestamptz - $3::interval AND s.pending_since <= $1::timestamptz - $3::interval
    AND ((c.stripe_customer_id IS NOT NULL AND a.project_id IS NOT NULL) OR s.starts_at < $4)
ORDER BY s.project_id, s.mode, s.customer_id, s.meter, s.starts_at
LIMIT $2
FOR UPDATE OF s SKIP LOCKED;

-- name: credits
-- Of the same customers, meters and periods: slots of which more was told than is true now.
SELECT s.project_id, s.mode, s.customer_id, s.meter, s.starts_at, s.period, s.counted - s.sealed AS pending, s.entries
FROM billing_slots s
JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[]))
    AS w (project_id, mode, customer_id, meter, period) USING (project_id, mode, customer_id, meter, period)
WHERE s.is_pending AND s.counted < s.sealed
ORDER BY 1, 2, 3, 4, 5
FOR UPDATE OF s SKIP LOCKED;

-- name: insert_entries
INSERT INTO billing_entries (
    project_id, mode, customer_id, meter, starts_at, sequence, identifier, quantity, value, state, reason, netted_into,
    event_name, created_at, available_at, doubt_since
)
SELECT e.*, $14::timestamptz, $14::timestamptz, CASE WHEN e.starts_at < r.at THEN 'epoch'::timestamptz END
FROM (SELECT max(restored_at) AS at FROM restores) r, unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::int[], $7::text[], $8::numeric[], $9::numeric[],
    $10::text[], $11::text[], $12::text[], $13::text[]
) AS e (project_id, mode, customer_id, meter, starts_at, sequence, identifier, quantity, value, state, reason, netted, name);

-- name: mark_sealed
UPDATE billing_slots s
SET sealed = s.sealed + e.quantity, entries = s.entries + e.number
FROM (
    SELECT project_id, mode, customer_id, meter, starts_at, sum(quantity) AS quantity, count(*) AS number
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::numeric[])
        AS t (project_id, mode, customer_id, meter, starts_at, quantity)
    GROUP BY 1, 2, 3, 4, 5
) e
WHERE (s.project_id, s.mode, s.customer_id, s.meter, s.starts_at)
    = (e.project_id, e.mode, e.customer_id, e.meter, e.starts_at);
