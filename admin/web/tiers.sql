-- name: customers
SELECT tier_id, count(*) AS customers FROM subscriptions
WHERE project_id = $1 AND mode = $2 AND status <> 'canceled' GROUP BY tier_id

-- name: without
-- Customers without a subscription: the default tier serves them.
SELECT (SELECT count(*) FROM customers WHERE project_id = $1 AND mode = $2)
     - (SELECT count(*) FROM subscriptions WHERE project_id = $1 AND mode = $2 AND status <> 'canceled')
