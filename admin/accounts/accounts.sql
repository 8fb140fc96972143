-- name: lock_attempts
SELECT pg_advisory_xact_lock(7240318808)

-- name: attempts
SELECT count(*) FILTER (WHERE address = $2) AS by_address, count(*) FILTER (WHERE email = $3) AS by_email,
       extract(epoch FROM min(at) + interval '15 minutes' - now())::float8 AS wait_s
FROM sign_in_attempts WHERE kind = $1 AND (address = $2 OR email = $3) AND at > now() - interval '15 minutes'

-- name: note_attempt
INSERT INTO sign_in_attempts (kind, address, email) VALUES ($1, $2, $3)

-- name: link
SELECT email, is_reusable FROM magic_links WHERE hash = $1 AND expires_at > now()

-- name: use_link
-- Of two who come with one link at the same moment, the second finds nothing.
DELETE FROM magic_links WHERE hash = $1 AND expires_at > now() AND NOT is_reusable RETURNING email

-- name: drop_links
DELETE FROM magic_links WHERE email = $1 AND NOT is_reusable

-- name: sign_in
INSERT INTO accounts (id, email, last_signed_in_at) VALUES ($1, $2, now())
ON CONFLICT (email) DO UPDATE SET last_signed_in_at = now()
RETURNING id

-- name: ensure_account
INSERT INTO accounts (id, email) VALUES ($1, $2) ON CONFLICT (email) DO UPDATE SET email = excluded.email RETURNING id

-- name: emails
SELECT id, email FROM accounts WHERE id = ANY ($1::text[])

-- name: has_operator
SELECT EXISTS (SELECT FROM members WHERE project_id = 'prj_platform' AND role = 'owner')

-- name: add_claim
INSERT INTO operator_claims (hash) VALUES ($1)

-- name: use_claim
DELETE FROM operator_claims WHERE hash = $1 RETURNING hash

-- name: drop_claims
DELETE FROM operator_claims
