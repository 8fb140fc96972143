-- name: by_name
SELECT id, name, kind, created_at FROM projects WHERE name = $1

-- name: by_id
SELECT id, name, kind, created_at FROM projects WHERE id = $1

-- name: page
SELECT id, name, kind, created_at FROM projects WHERE $1::text IS NULL OR id < $1 ORDER BY id DESC LIMIT $2

-- name: insert
INSERT INTO projects (id, name, kind) VALUES ($1, $2, $3)

-- name: rename
UPDATE projects SET name = $2 WHERE id = $1

-- name: counts
SELECT (SELECT count(*) FROM keys WHERE project_id = $1 AND revoked_at IS NULL) AS keys,
       (SELECT count(*) FROM customers WHERE project_id = $1) AS customers,
       (SELECT count(*) FROM tiers WHERE project_id = $1) AS tiers,
       (SELECT count(*) FROM routes WHERE project_id = $1) AS routes,
       (SELECT count(*) FROM members WHERE project_id = $1) AS members

-- name: drop_subscriptions
DELETE FROM subscriptions WHERE project_id = $1

-- name: delete
DELETE FROM projects WHERE id = $1

-- name: alert_settings
SELECT alert_percents, alerts_by_mail FROM projects WHERE id = $1

-- name: set_alerts
UPDATE projects SET alert_percents = $2, alerts_by_mail = $3 WHERE id = $1
