-- Statements of ledger/mail.

-- name: queue
INSERT INTO outbox (project_id, topic, dedup_key, payload) VALUES ($1, 'mail', $2, $3::text::jsonb)
ON CONFLICT (topic, dedup_key) DO NOTHING

-- name: take
-- Taken for two minutes; a worker that dies meanwhile leaves it to the next.
UPDATE outbox SET attempts = attempts + 1, available_at = now() + interval '2 minutes'
WHERE id IN (
    SELECT id FROM outbox WHERE topic = 'mail' AND delivered_at IS NULL AND available_at <= now()
    ORDER BY available_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
RETURNING id, payload::text AS payload, attempts, created_at

-- name: sent
UPDATE outbox SET delivered_at = now(), last_error = NULL WHERE id = $1

-- name: failed
UPDATE outbox SET last_error = $2, available_at = now() + make_interval(secs => $3) WHERE id = $1

-- name: given_up
UPDATE outbox SET last_error = $2, available_at = 'infinity' WHERE id = $1

-- name: add_link
INSERT INTO magic_links (hash, email, is_reusable, expires_at) VALUES ($1, $2, $3, $4)

-- name: show
INSERT INTO dev_mails (recipient, subject, body) VALUES ($1, $2, $3)

-- name: forget_outbox
DELETE FROM outbox WHERE topic = 'mail' AND (delivered_at < now() - interval '7 days' OR created_at < now() - interval '30 days')

-- name: forget_links
DELETE FROM magic_links WHERE expires_at < now()

-- name: forget_attempts
DELETE FROM sign_in_attempts WHERE at < now() - interval '1 hour'

-- name: forget_sessions
DELETE FROM sessions WHERE expires_at < now()

-- name: forget_invitations
DELETE FROM invitations WHERE expires_at < now()

-- name: forget_shown
DELETE FROM dev_mails WHERE created_at < now() - interval '1 day'
