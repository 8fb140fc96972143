-- Statements of ledger/heal.py, all in one transaction that keeps writers out.

-- name: lock
-- Whoever stores events adds to the rollup in the same transaction: with this held, the ledger stands still.
LOCK TABLE usage_hourly IN SHARE MODE;

-- name: anchors
SELECT project_id, mode, customer_id, anchor_at FROM subscriptions WHERE status <> 'canceled';

-- name: calendar_usage
-- Customers without a period of their own, and what belongs to no customer; $1, $2 are whole hours.
SELECT h.project_id, h.mode, h.customer_id, h.meter, sum(h.quantity)::bigint AS quantity
FROM usage_hourly h
WHERE h.hour >= $1 AND h.hour < $2
    AND NOT EXISTS (SELECT FROM subscriptions s WHERE s.customer_id = h.customer_id AND s.status <> 'canceled')
GROUP BY 1, 2, 3, 4
HAVING sum(h.quantity) > 0;

-- name: anchored_usage
-- Periods $4 to $7 of customers $1, $2, $3; $5 and $6 are the first and the last whole hour in them.
WITH periods AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[])
        AS p (project_id, mode, customer_id, start_at, first_hour, last_hour, end_at)
)
SELECT project_id, mode, customer_id, start_at, meter, sum(quantity)::bigint AS quantity
FROM (
    SELECT p.project_id, p.mode, p.customer_id, p.start_at, h.meter, h.quantity
    FROM periods p
    JOIN usage_hourly h ON h.project_id = p.project_id AND h.mode = p.mode AND h.customer_id = p.customer_id
    WHERE h.hour >= p.first_hour AND h.hour < p.last_hour
    UNION ALL
    SELECT p.project_id, p.mode, p.customer_id, p.start_at, m.key, m.value::numeric
    FROM periods p
    JOIN usage_events e ON e.project_id = p.project_id AND e.mode = p.mode AND e.customer_id = p.customer_id
    CROSS JOIN LATERAL jsonb_each(e.meters) m
    WHERE e.at >= p.start_at AND e.at < p.first_hour
    UNION ALL
    SELECT p.project_id, p.mode, p.customer_id, p.start_at, m.key, m.value::numeric
    FROM periods p
    JOIN usage_events e ON e.project_id = p.project_id AND e.mode = p.mode AND e.customer_id = p.customer_id
    CROSS JOIN LATERAL jsonb_each(e.meters) m
    WHERE e.at >= p.last_hour AND e.at < p.end_at
) counted
GROUP BY 1, 2, 3, 4, 5
HAVING sum(quantity) > 0;

-- name: stored
-- Which of these events are in the ledger.
SELECT e.id FROM unnest($1::text[], $2::timestamptz[], $3::uuid[]) AS w (project_id, at, id)
JOIN usage_events e ON e.project_id = w.project_id AND e.at = w.at AND e.id = w.id;

-- name: lately
-- Who was admitted since $1; further parts of a long request were not, and corrections never. By project, as every index of the events begins with it.
SELECT e.project_id, e.customer_id, e.key_id, e.route_id, (extract(epoch FROM e.at) * 1000)::bigint AS at_ms
FROM projects p
CROSS JOIN LATERAL (
    SELECT * FROM usage_events u
    WHERE u.project_id = p.id AND u.at > $1 AND u.corrects IS NULL AND coalesce(u.notes ->> 'part', '0') = '0'
) e;

-- name: limited
-- What has a limit per minute of its own, and the meters that some tier has a quota of.
SELECT id FROM keys WHERE requests_per_minute IS NOT NULL
UNION ALL
SELECT id FROM routes WHERE spec ->> 'requests_per_minute' IS NOT NULL
UNION ALL
SELECT DISTINCT 'meter:' || meter FROM tier_quotas
UNION ALL
SELECT 'burst' WHERE EXISTS (SELECT FROM tiers WHERE burst IS NOT NULL)
    OR EXISTS (SELECT FROM routes WHERE spec ->> 'burst' IS NOT NULL);

-- name: is_empty
SELECT NOT EXISTS (SELECT FROM usage_hourly);
