-- Statements of ledger/usage.py.

-- name: usage_in_period
-- $1 project, $2 mode, $3 customer or NULL for all; whole hours [$4, $5) from the rollup, the edges [$6, $7) and [$8, $9)
-- from the events. One statement, so one snapshot: an event is in the rollup exactly if it is among the events.
SELECT meter, sum(quantity) AS quantity
FROM (
    SELECT h.meter, h.quantity
    FROM usage_hourly h
    WHERE h.project_id = $1 AND h.mode = $2 AND ($3::text IS NULL OR h.customer_id = $3)
        AND h.hour >= $4 AND h.hour < $5
    UNION ALL
    SELECT m.key, m.value::numeric
    FROM usage_events e, jsonb_each(e.meters) m
    WHERE e.project_id = $1 AND e.mode = $2 AND ($3::text IS NULL OR e.customer_id = $3)
        AND e.at >= $6 AND e.at < $7
    UNION ALL
    SELECT m.key, m.value::numeric
    FROM usage_events e, jsonb_each(e.meters) m
    WHERE e.project_id = $1 AND e.mode = $2 AND ($3::text IS NULL OR e.customer_id = $3)
        AND e.at >= $8 AND e.at < $9
) counted
GROUP BY meter;
