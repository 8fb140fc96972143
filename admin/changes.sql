-- name: record
INSERT INTO audit (project_id, actor, action, noun, object_id, before, after)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::text::jsonb)
