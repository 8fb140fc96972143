-- name: select
SELECT k.id, k.project_id, k.mode, k.kind, k.name, k.prefix, c.external_id AS customer, k.scopes,
       k.requests_per_minute, k.allowed_origins, k.allowed_ips, k.expires_at, k.revoked_at, k.rotated_to,
       k.last_used_at, k.created_at
FROM keys k LEFT JOIN customers c ON c.id = k.customer_id

-- name: of_page
WHERE k.project_id = $1 AND k.mode = $2 AND ($3::text IS NULL OR k.id < $3) ORDER BY k.id DESC LIMIT $4

-- name: of_id
WHERE ($1::text IS NULL OR k.project_id = $1) AND ($2::text IS NULL OR k.mode = $2) AND k.id = $3

-- name: customer_id
SELECT id FROM customers WHERE project_id = $1 AND mode = $2 AND external_id = $3

-- name: insert
INSERT INTO keys (id, project_id, mode, kind, name, hash, prefix, customer_id, scopes, requests_per_minute,
                  allowed_origins, allowed_ips, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: copy
INSERT INTO keys (id, project_id, mode, kind, name, hash, prefix, customer_id, scopes, requests_per_minute,
                  allowed_origins, allowed_ips, expires_at)
SELECT $1, project_id, mode, kind, name, $2, $3, customer_id, scopes, requests_per_minute, allowed_origins,
       allowed_ips, expires_at
FROM keys WHERE id = $4

-- name: retire
UPDATE keys SET rotated_to = $2, expires_at = least(expires_at, $3) WHERE id = $1

-- name: revoke
UPDATE keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id

-- name: has_secret
SELECT EXISTS (SELECT FROM keys WHERE project_id = $1 AND mode = $2 AND kind = 'sk' AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > now()))
