-- name: save
INSERT INTO sandbox.runs (id, project, mode, customer, created_at, summary, result)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)
ON CONFLICT (id) DO NOTHING;

-- name: find
SELECT customer, result FROM sandbox.runs
WHERE id = $1 AND project = $2 AND mode = $3 AND created_at > $4;

-- name: page
SELECT id, summary FROM sandbox.runs
WHERE project = $1 AND mode = $2 AND ($3 = '' OR customer = $3) AND ($4 = '' OR id < $4) AND created_at > $5
ORDER BY id DESC
LIMIT $6;

-- name: claim
INSERT INTO sandbox.idempotency (project, mode, customer, key, request, run)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (project, mode, customer, key) DO UPDATE
SET request = excluded.request, run = excluded.run, created_at = now()
WHERE sandbox.idempotency.created_at < now() - $7::interval
RETURNING run;

-- name: claimed
SELECT request, run, created_at FROM sandbox.idempotency
WHERE project = $1 AND mode = $2 AND customer = $3 AND key = $4;

-- name: unclaim
DELETE FROM sandbox.idempotency
WHERE project = $1 AND mode = $2 AND customer = $3 AND key = $4 AND run = $5;

-- name: forget_runs
DELETE FROM sandbox.runs
WHERE id IN (SELECT id FROM sandbox.runs WHERE created_at < $1 LIMIT 1000);

-- name: forget_claims
DELETE FROM sandbox.idempotency WHERE created_at < $1;
