-- name: page
SELECT id, created_at, spec::text AS spec, secret FROM upstreams
WHERE project_id = $1 AND ($2::text IS NULL OR id < $2) ORDER BY id DESC LIMIT $3

-- name: by_id
SELECT id, created_at, spec::text AS spec, secret FROM upstreams WHERE project_id = $1 AND id = $2

-- name: by_names
SELECT id, created_at, name, spec::text AS spec, secret FROM upstreams
WHERE project_id = $1 AND ($2::text[] IS NULL OR name = ANY($2)) ORDER BY name

-- name: routes_of
SELECT name FROM routes WHERE upstream_id = $1 ORDER BY name

-- name: insert
INSERT INTO upstreams (id, project_id, name, spec, secret) VALUES ($1, $2, $3, $4::text::jsonb, $5)

-- name: update
UPDATE upstreams SET spec = $2::text::jsonb, secret = $3 WHERE id = $1

-- name: delete
DELETE FROM upstreams WHERE id = $1
