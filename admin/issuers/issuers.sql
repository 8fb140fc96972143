-- name: page
SELECT id, created_at, spec::text AS spec FROM issuers
WHERE project_id = $1 AND spec ->> 'mode' = $2 AND ($3::text IS NULL OR id < $3) ORDER BY id DESC LIMIT $4

-- name: by_id
SELECT id, created_at, spec::text AS spec FROM issuers WHERE project_id = $1 AND spec ->> 'mode' = $2 AND id = $3

-- name: by_names
SELECT id, created_at, name, spec::text AS spec FROM issuers
WHERE project_id = $1 AND spec ->> 'mode' = $2 AND ($3::text[] IS NULL OR name = ANY($3)) ORDER BY name

-- name: other
SELECT name, spec ->> 'mode' AS mode FROM issuers
WHERE project_id = $1 AND (name = $2 OR issuer = $3) AND id <> $4 LIMIT 1

-- name: insert
INSERT INTO issuers (id, project_id, name, issuer, spec) VALUES ($1, $2, $3, $4, $5::text::jsonb)

-- name: update
UPDATE issuers SET issuer = $2, spec = $3::text::jsonb WHERE id = $1

-- name: delete
DELETE FROM issuers WHERE id = $1
