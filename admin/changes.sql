-- name: record
INSERT INTO audit (project_id, actor, action, noun, object_id, before, after)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::text::jsonb)

-- name: recorded
SELECT id, at, actor, action, noun, object_id, before::text AS before, after::text AS after FROM audit
WHERE project_id = $1 AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
