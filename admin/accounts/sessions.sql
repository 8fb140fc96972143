-- name: add
INSERT INTO sessions (id, hash, account_id, address, user_agent, project_id, expires_at)
VALUES ($1, $2, $3, $4, $5, (SELECT project_id FROM members WHERE account_id = $3 ORDER BY project_id = 'prj_platform', created_at DESC LIMIT 1),
        now() + interval '30 days')

-- name: select
SELECT s.id, s.account_id, a.email, s.address, s.user_agent, s.project_id, s.mode, s.created_at, s.last_seen_at, s.expires_at
FROM sessions s JOIN accounts a ON a.id = s.account_id

-- name: of_hash
WHERE s.hash = $1 AND s.expires_at > now()

-- name: of_account
WHERE s.account_id = $1 AND s.expires_at > now() ORDER BY s.last_seen_at DESC LIMIT 100

-- name: seen
UPDATE sessions SET last_seen_at = now(), address = $2 WHERE id = $1

-- name: turn_to
UPDATE sessions SET project_id = $2, mode = $3 WHERE id = $1

-- name: end
DELETE FROM sessions WHERE account_id = $1 AND id = $2 RETURNING id

-- name: end_token
DELETE FROM sessions WHERE hash = $1

-- name: end_others
DELETE FROM sessions WHERE account_id = $1 AND id <> $2
