-- Statements of admin/api/billing.py.

-- name: reconciliations
SELECT ended_at, report::text AS report FROM reconciliations
WHERE (project_id IS NULL OR project_id = $1) AND ($2::timestamptz IS NULL OR ended_at < $2)
ORDER BY ended_at DESC LIMIT $3;
