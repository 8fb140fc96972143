-- name: counts
-- Those subscribed to a tier, and, of a default tier, those without a subscription: it serves them.
SELECT (SELECT count(*) FROM subscriptions WHERE tier_id = $3 AND status <> 'canceled') AS subscribed,
       CASE WHEN $4::boolean THEN (SELECT count(*) FROM customers WHERE project_id = $1 AND mode = $2)
           - (SELECT count(*) FROM subscriptions WHERE project_id = $1 AND mode = $2 AND status <> 'canceled')
       ELSE 0 END AS by_default,
       (SELECT count(*) FROM subscriptions WHERE tier_id = $3 AND status = 'canceled') AS past

-- name: first_subscribed
SELECT c.id, c.external_id, c.name FROM subscriptions s JOIN customers c ON c.id = s.customer_id
WHERE s.tier_id = $1 AND s.status <> 'canceled' ORDER BY s.id LIMIT $2

-- name: first_by_default
SELECT c.id, c.external_id, c.name FROM customers c
WHERE c.project_id = $1 AND c.mode = $2
  AND NOT EXISTS (SELECT FROM subscriptions s WHERE s.customer_id = c.id AND s.status <> 'canceled')
ORDER BY c.id DESC LIMIT $3
