-- Statements of ledger/usage_figures.py. All are over whole UTC days [$3, $4) of one half ($1 project, $2 mode), and read the
-- daily rollup. $5 is a customer, or NULL for all; $6 and $7 of a breakdown how many parts, after how many.

-- name: by_meter
SELECT meter, sum(quantity) AS quantity, sum(events) AS events, sum(duration_us) AS duration_us
FROM usage_daily
WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 AND ($5::text IS NULL OR customer_id = $5)
GROUP BY meter ORDER BY meter;

-- name: by_month
SELECT to_char(date_trunc('month', day), 'YYYY-MM') AS period, meter, sum(quantity) AS quantity
FROM usage_daily
WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 AND ($5::text IS NULL OR customer_id = $5)
GROUP BY 1, 2 ORDER BY 1, 2;

-- name: by_day
SELECT p.id, p.id AS name, p.meter, p.quantity
FROM (
    SELECT to_char(day, 'YYYY-MM-DD') AS id, meter, sum(quantity) AS quantity, dense_rank() OVER (ORDER BY day) AS place
    FROM usage_daily
    WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 AND ($5::text IS NULL OR customer_id = $5)
    GROUP BY day, meter
) p
WHERE p.place > $7 AND ($6::bigint IS NULL OR p.place <= $6 + $7) ORDER BY p.id, p.meter;

-- name: by_customer
SELECT p.id, coalesce(c.name, c.external_id, p.id) AS name, d.meter, sum(d.quantity) AS quantity
FROM (
    SELECT customer_id AS id, coalesce(sum(quantity) FILTER (WHERE meter = 'requests'), 0) AS requests FROM usage_daily
    WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 AND ($5::text IS NULL OR customer_id = $5)
    GROUP BY customer_id ORDER BY 2 DESC, 1 LIMIT $6 OFFSET $7
) p
JOIN usage_daily d ON d.customer_id = p.id AND d.project_id = $1 AND d.mode = $2 AND d.day >= $3 AND d.day < $4
    AND ($5::text IS NULL OR d.customer_id = $5)
LEFT JOIN customers c ON c.id = p.id AND c.project_id = $1
GROUP BY p.id, p.requests, 2, d.meter ORDER BY p.requests DESC, p.id, d.meter;

-- name: by_key
SELECT p.id, coalesce(k.name, p.id) AS name, d.meter, sum(d.quantity) AS quantity
FROM (
    SELECT key_id AS id, coalesce(sum(quantity) FILTER (WHERE meter = 'requests'), 0) AS requests FROM usage_daily
    WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 AND ($5::text IS NULL OR customer_id = $5)
    GROUP BY key_id ORDER BY 2 DESC, 1 LIMIT $6 OFFSET $7
) p
JOIN usage_daily d ON d.key_id = p.id AND d.project_id = $1 AND d.mode = $2 AND d.day >= $3 AND d.day < $4
    AND ($5::text IS NULL OR d.customer_id = $5)
LEFT JOIN keys k ON k.id = p.id AND k.project_id = $1
GROUP BY p.id, p.requests, 2, d.meter ORDER BY p.requests DESC, p.id, d.meter;

-- name: by_route
SELECT p.id, coalesce(r.name, p.id) AS name, d.meter, sum(d.quantity) AS quantity
FROM (
    SELECT route_id AS id, coalesce(sum(quantity) FILTER (WHERE meter = 'requests'), 0) AS requests FROM usage_daily
    WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 AND ($5::text IS NULL OR customer_id = $5)
    GROUP BY route_id ORDER BY 2 DESC, 1 LIMIT $6 OFFSET $7
) p
JOIN usage_daily d ON d.route_id = p.id AND d.project_id = $1 AND d.mode = $2 AND d.day >= $3 AND d.day < $4
    AND ($5::text IS NULL OR d.customer_id = $5)
LEFT JOIN routes r ON r.id = p.id AND r.project_id = $1
GROUP BY p.id, p.requests, 2, d.meter ORDER BY p.requests DESC, p.id, d.meter;

-- name: by_everything
SELECT to_char(d.day, 'YYYY-MM-DD') AS day, d.customer_id, c.external_id, d.key_id, d.route_id, d.meter, d.quantity, d.events
FROM usage_daily d LEFT JOIN customers c ON c.id = d.customer_id
WHERE d.project_id = $1 AND d.mode = $2 AND d.day >= $3 AND d.day < $4 AND ($5::text IS NULL OR d.customer_id = $5)
ORDER BY d.day, d.customer_id, d.key_id, d.route_id, d.meter
LIMIT $6;

-- name: customers_with_tiers
-- Who used what, and under which tier: the customer's, else the default one.
SELECT u.customer_id, c.external_id, u.usage::text AS usage, t.id AS tier_id
FROM (
    SELECT customer_id, jsonb_object_agg(meter, quantity) AS usage
    FROM (
        SELECT customer_id, meter, sum(quantity) AS quantity FROM usage_daily
        WHERE project_id = $1 AND mode = $2 AND day >= $3 AND day < $4 AND ($5::text IS NULL OR customer_id = $5)
            AND customer_id <> ''
        GROUP BY 1, 2
    ) m
    GROUP BY 1
) u
LEFT JOIN customers c ON c.id = u.customer_id
LEFT JOIN subscriptions s ON s.customer_id = u.customer_id AND s.status <> 'canceled'
LEFT JOIN tiers t ON t.id = coalesce(s.tier_id, (
    SELECT id FROM tiers WHERE project_id = $1 AND mode = $2 AND is_default
))
ORDER BY u.customer_id;

-- name: tiers
SELECT t.id, t.name, t.currency, t.price_minor, t.billing_interval, (
    SELECT coalesce(jsonb_agg(jsonb_build_object('meter', q.meter, 'quota', q.quota, 'is_hard', q.is_hard,
        'price', q.overage_unit_price::text)), '[]') FROM tier_quotas q WHERE q.tier_id = t.id
)::text AS quotas
FROM tiers t WHERE t.project_id = $1 AND t.mode = $2;

-- name: recent
-- $3, $4: the last event of the page before, by time and id; $5 customer, $6 key, $7 route, $8 how many.
SELECT at, id, customer_id, key_id, route_id, method, status, outcome, meters::text AS meters, duration_us, upstream_us,
    corrects, actor, reason
FROM usage_events
WHERE project_id = $1 AND mode = $2 AND ($3::timestamptz IS NULL OR (at, id) < ($3, $4::uuid))
    AND ($5::text IS NULL OR customer_id = $5) AND ($6::text IS NULL OR key_id = $6) AND ($7::text IS NULL OR route_id = $7)
ORDER BY at DESC, id DESC
LIMIT $8;
