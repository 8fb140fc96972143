-- name: select
SELECT c.id, c.created_at, c.external_id, c.name, c.email, c.origin, t.name AS tier, s.status, s.anchor_at,
       s.trial_ends_at
FROM customers c
LEFT JOIN subscriptions s ON s.customer_id = c.id AND s.status <> 'canceled'
LEFT JOIN tiers t ON t.id = s.tier_id
WHERE c.project_id = $1 AND c.mode = $2 AND c.external_id IS NOT NULL

-- name: of_page
AND ($3::text IS NULL OR c.id < $3) ORDER BY c.id DESC LIMIT $4

-- name: of_id
AND c.id = $3

-- name: of_names
AND ($3::text[] IS NULL OR c.external_id = ANY($3)) ORDER BY c.external_id

-- name: other_with_email
SELECT external_id FROM customers WHERE project_id = $1 AND mode = $2 AND lower(email) = $3 AND id <> $4

-- name: insert
-- Whoever ingests usage may write the row of a customer first seen at a gateway at any moment: it becomes this one.
INSERT INTO customers (id, project_id, mode, external_id, name, email) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO UPDATE SET name = $5, email = $6, origin = 'declared'

-- name: update
UPDATE customers SET name = $2, email = $3, origin = 'declared' WHERE id = $1

-- name: delete
DELETE FROM customers WHERE id = $1
