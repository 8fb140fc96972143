-- name: search
SELECT external_id FROM customers
WHERE project_id = $1 AND mode = $2 AND external_id IS NOT NULL
  AND (external_id COLLATE "C" LIKE $3 OR lower(email) COLLATE "C" LIKE $4)
ORDER BY external_id COLLATE "C" LIMIT $5

-- name: keys
SELECT id, name, prefix, revoked_at, last_used_at FROM keys WHERE customer_id = $1 ORDER BY id DESC LIMIT 50
