-- name: forget_old
DELETE FROM idempotent_requests WHERE created_at < now() - interval '1 day'

-- name: find
SELECT fingerprint, status, location, body FROM idempotent_requests
WHERE project_id = $1 AND mode = $2 AND idem = $3

-- name: keep
INSERT INTO idempotent_requests (project_id, mode, idem, fingerprint, status, location, body)
VALUES ($1, $2, $3, $4, $5, $6, $7)
