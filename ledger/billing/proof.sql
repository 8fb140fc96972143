-- Statements of ledger/billing/proof.py: each returns what is wrong, and so nothing.

-- name: slots_and_events
-- $1, $2: which hours, [from, to). Per customer, billed meter and hour: what the slots count and what the events add up to.
WITH events AS (
    SELECT e.project_id, e.mode, e.customer_id, b.meter, date_trunc('hour', e.at, 'UTC') AS hour,
        sum((e.meters ->> b.meter)::numeric) AS quantity
    FROM usage_events e
    JOIN billed_meters b ON b.project_id = e.project_id AND b.mode = e.mode AND e.at >= b.since AND e.at < b.until
        AND e.meters ? b.meter
    WHERE e.customer_id IS NOT NULL AND e.at >= $1 AND e.at < $2
    GROUP BY 1, 2, 3, 4, 5
),
slots AS (
    SELECT project_id, mode, customer_id, meter, date_trunc('hour', starts_at, 'UTC') AS hour, sum(counted) AS quantity
    FROM billing_slots
    WHERE starts_at >= $1 AND starts_at < $2
    GROUP BY 1, 2, 3, 4, 5
)
SELECT project_id, mode, customer_id, meter, hour, coalesce(e.quantity, 0) AS expected, coalesce(s.quantity, 0) AS found
FROM events e FULL JOIN slots s USING (project_id, mode, customer_id, meter, hour)
WHERE coalesce(e.quantity, 0) <> coalesce(s.quantity, 0)
ORDER BY 1, 2, 3, 4, 5;

-- name: slots_and_entries
-- Per slot: what it says is sealed, and what its entries add up to.
SELECT s.project_id, s.mode, s.customer_id, s.meter, s.starts_at AS hour, s.sealed AS expected, coalesce(e.quantity, 0) AS found
FROM billing_slots s
LEFT JOIN (
    SELECT project_id, mode, customer_id, meter, starts_at, sum(quantity) AS quantity
    FROM billing_entries
    WHERE state <> 'replayed' AND starts_at >= $1 AND starts_at < $2
    GROUP BY 1, 2, 3, 4, 5
) e USING (project_id, mode, customer_id, meter, starts_at)
WHERE s.starts_at >= $1 AND s.starts_at < $2 AND s.sealed <> coalesce(e.quantity, 0)
ORDER BY 1, 2, 3, 4, 5;

-- name: values_and_quantities
-- Per entry that others were netted into: its value is its quantity less theirs.
SELECT e.project_id, e.mode, e.customer_id, e.meter, e.starts_at AS hour, e.quantity + coalesce(n.quantity, 0) AS expected,
    e.value AS found
FROM billing_entries e
LEFT JOIN (
    SELECT netted_into, sum(quantity) AS quantity FROM billing_entries WHERE netted_into IS NOT NULL GROUP BY 1
) n ON n.netted_into = e.identifier
WHERE e.starts_at >= $1 AND e.starts_at < $2 AND e.state <> 'waived' AND e.netted_into IS NULL
    AND e.value <> e.quantity + coalesce(n.quantity, 0)
ORDER BY 1, 2, 3, 4, 5;
