-- name: select
SELECT e.id, e.mode, e.url, e.events, e.is_enabled, e.old_secret_until, e.created_at,
       (SELECT count(*) FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND d.state = 'pending') AS pending
FROM webhook_endpoints e WHERE e.project_id = $1 AND e.mode = $2

-- name: of_page
AND ($3::text IS NULL OR e.id < $3) ORDER BY e.id DESC LIMIT $4

-- name: of_id
AND e.id = $3

-- name: count
SELECT count(*) FROM webhook_endpoints WHERE project_id = $1 AND mode = $2

-- name: insert
INSERT INTO webhook_endpoints (id, project_id, mode, url, events, secret) VALUES ($1, $2, $3, $4, $5, $6)

-- name: update
UPDATE webhook_endpoints SET url = $2, events = $3, is_enabled = $4 WHERE id = $1

-- name: rotate
UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = now() + interval '24 hours', secret = $2 WHERE id = $1

-- name: delete
DELETE FROM webhook_endpoints WHERE id = $1

-- name: deliveries
SELECT d.id, d.message_id, m.type, m.body, d.state, d.attempts, d.last_status, d.last_error, d.last_at, d.available_at, d.created_at
FROM webhook_deliveries d JOIN webhook_messages m ON m.id = d.message_id
WHERE d.endpoint_id = $1 AND ($2::bigint IS NULL OR d.id < $2) ORDER BY d.id DESC LIMIT $3

-- name: resend
-- At the end of the line, with the message and its id as they were.
INSERT INTO webhook_deliveries (endpoint_id, message_id)
SELECT endpoint_id, message_id FROM webhook_deliveries WHERE id = $1 AND endpoint_id = $2 RETURNING id

-- name: send
WITH message AS (
    INSERT INTO webhook_messages (id, project_id, mode, type, body) VALUES ($1, $2, $3, $4, $5) RETURNING id
)
INSERT INTO webhook_deliveries (endpoint_id, message_id) SELECT $6, id FROM message
