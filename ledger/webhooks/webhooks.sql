-- name: emit
-- $1 project, $2 mode, $3 message id, $4 type, $5 body. Nothing is written where nobody listens.
WITH listening AS (
    SELECT id FROM webhook_endpoints
    WHERE project_id = $1 AND mode = $2 AND is_enabled AND (events = '{}' OR $4 = ANY (events))
), message AS (
    INSERT INTO webhook_messages (id, project_id, mode, type, body)
    SELECT $3, $1, $2, $4, $5 WHERE EXISTS (SELECT FROM listening) RETURNING id
)
INSERT INTO webhook_deliveries (endpoint_id, message_id) SELECT l.id, m.id FROM listening l, message m

-- name: listens
SELECT EXISTS (SELECT FROM webhook_endpoints WHERE project_id = $1 AND mode = $2 AND is_enabled)

-- name: take
-- The head of each endpoint's line, if it is due. Of two workers the second finds it taken when the first has committed.
UPDATE webhook_deliveries d SET attempts = d.attempts + 1, available_at = now() + interval '2 minutes', last_at = now()
FROM webhook_endpoints e, webhook_messages m
WHERE d.id IN (
    SELECT head.id FROM webhook_endpoints x
    JOIN LATERAL (SELECT id, available_at FROM webhook_deliveries
                  WHERE endpoint_id = x.id AND state = 'pending' ORDER BY id LIMIT 1) head ON true
    WHERE x.is_enabled AND head.available_at <= now() ORDER BY head.available_at LIMIT $1
) AND d.available_at <= now() AND d.state = 'pending' AND e.id = d.endpoint_id AND m.id = d.message_id
RETURNING d.id, d.attempts, d.created_at, d.message_id, m.body, e.id AS endpoint_id, e.url, e.secret,
          CASE WHEN e.old_secret_until > now() THEN e.old_secret END AS old_secret

-- name: delivered
UPDATE webhook_deliveries SET state = 'delivered', last_status = $2, last_error = NULL WHERE id = $1

-- name: failed
UPDATE webhook_deliveries SET last_status = $2, last_error = $3, available_at = now() + make_interval(secs => $4) WHERE id = $1

-- name: given_up
UPDATE webhook_deliveries SET state = 'given_up', last_status = $2, last_error = $3 WHERE id = $1

-- name: turn_off
UPDATE webhook_endpoints SET is_enabled = false WHERE id = $1

-- name: forget_old
DELETE FROM webhook_messages m WHERE m.created_at < now() - interval '30 days'
  AND NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.message_id = m.id AND d.state = 'pending')
