-- What a start of `tollgate dev` must know of the demo project.

-- name: find
SELECT p.id AS project_id, u.spec ->> 'targets' AS targets,
       (SELECT c.id FROM customers c WHERE c.project_id = p.id AND c.mode = 'test' AND c.external_id = $2) AS customer_id
FROM projects p LEFT JOIN upstreams u ON u.project_id = p.id AND u.name = $3
WHERE p.name = $1

-- name: usable_keys
SELECT hash FROM keys
WHERE project_id = $1 AND hash = ANY ($2::bytea[]) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
