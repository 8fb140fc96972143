-- name: by_name
SELECT id, name, kind, created_at FROM projects WHERE name = $1

-- name: by_id
SELECT id, name, kind, created_at FROM projects WHERE id = $1

-- name: page
SELECT id, name, kind, created_at FROM projects WHERE $1::text IS NULL OR id < $1 ORDER BY id DESC LIMIT $2

-- name: insert
INSERT INTO projects (id, name, kind) VALUES ($1, $2, $3)
