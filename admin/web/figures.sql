-- Statements of admin/web/figures.py. All from the daily rollup (UTC) but the requests themselves.

-- name: by_customer
SELECT h.customer_id AS id, coalesce(c.name, c.external_id) AS name, h.quantity, h.events FROM (
    SELECT customer_id, sum(quantity)::bigint AS quantity, sum(events)::bigint AS events FROM usage_daily
    WHERE project_id = $1 AND mode = $2 AND meter = $3 AND day >= $4 AND day < $5
    GROUP BY customer_id ORDER BY 2 DESC LIMIT $6
) h LEFT JOIN customers c ON c.id = h.customer_id AND c.project_id = $1 ORDER BY h.quantity DESC, h.customer_id

-- name: by_key
SELECT h.key_id AS id, k.name, h.quantity, h.events FROM (
    SELECT key_id, sum(quantity)::bigint AS quantity, sum(events)::bigint AS events FROM usage_daily
    WHERE project_id = $1 AND mode = $2 AND meter = $3 AND day >= $4 AND day < $5
    GROUP BY key_id ORDER BY 2 DESC LIMIT $6
) h LEFT JOIN keys k ON k.id = h.key_id AND k.project_id = $1 ORDER BY h.quantity DESC, h.key_id

-- name: by_route
SELECT h.route_id AS id, r.name, h.quantity, h.events FROM (
    SELECT route_id, sum(quantity)::bigint AS quantity, sum(events)::bigint AS events FROM usage_daily
    WHERE project_id = $1 AND mode = $2 AND meter = $3 AND day >= $4 AND day < $5
    GROUP BY route_id ORDER BY 2 DESC LIMIT $6
) h LEFT JOIN routes r ON r.id = h.route_id AND r.project_id = $1 ORDER BY h.quantity DESC, h.route_id

-- name: tiles
-- One pass over the month: how much of each meter, in all and today.
SELECT meter, sum(quantity)::bigint AS month, coalesce(sum(quantity) FILTER (WHERE day >= $4), 0)::bigint AS today,
       count(DISTINCT customer_id) FILTER (WHERE customer_id <> '') AS customers
FROM usage_daily WHERE project_id = $1 AND mode = $2 AND day >= $3 GROUP BY meter ORDER BY meter

-- name: recent
SELECT e.at, e.id, e.method, e.status, e.outcome, e.meters::text AS meters, e.duration_us, e.upstream_us,
       coalesce(c.name, c.external_id, '') AS customer, k.prefix AS key, k.name AS key_name, r.name AS route
FROM (
    SELECT * FROM usage_events WHERE project_id = $1 AND mode = $2 AND at < $3 AND at > $3 - interval '62 days'
    ORDER BY at DESC, id DESC LIMIT $4
) e
LEFT JOIN customers c ON c.id = e.customer_id AND c.project_id = $1
LEFT JOIN keys k ON k.id = e.key_id AND k.project_id = $1
LEFT JOIN routes r ON r.id = e.route_id AND r.project_id = $1
ORDER BY e.at DESC, e.id DESC

-- name: meters
SELECT DISTINCT meter FROM usage_daily WHERE project_id = $1 AND mode = $2 AND day >= $3 ORDER BY 1 LIMIT 50

-- name: has_any
SELECT EXISTS (SELECT FROM usage_daily WHERE project_id = $1 AND mode = $2)
