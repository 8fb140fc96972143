-- name: page
SELECT id, created_at, spec::text AS spec, secret FROM routes
WHERE project_id = $1 AND ($2::text IS NULL OR id < $2) ORDER BY id DESC LIMIT $3

-- name: by_id
SELECT id, created_at, spec::text AS spec, secret FROM routes WHERE project_id = $1 AND id = $2

-- name: by_names
SELECT id, created_at, name, spec::text AS spec, secret FROM routes
WHERE project_id = $1 AND ($2::text[] IS NULL OR name = ANY($2)) ORDER BY name

-- name: upstream_id
SELECT id FROM upstreams WHERE project_id = $1 AND name = $2

-- name: same_match
SELECT name, project_id FROM routes
WHERE coalesce(host, '') = coalesce($1::text, '') AND path = $2 AND methods = $3::text[] AND id <> $4

-- name: insert
INSERT INTO routes (id, project_id, name, upstream_id, host, path, methods, spec, secret)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9)

-- name: update
UPDATE routes SET upstream_id = $2, host = $3, path = $4, methods = $5, spec = $6::text::jsonb, secret = $7
WHERE id = $1

-- name: stand_aside
UPDATE routes SET methods = ARRAY['~', id] WHERE id = ANY($1)

-- name: delete
DELETE FROM routes WHERE id = $1
