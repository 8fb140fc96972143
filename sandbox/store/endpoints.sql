-- name: add
INSERT INTO sandbox.endpoints (id, project, mode, customer, is_public, name, definition)
SELECT $1, $2, $3, $4, $5, $6, $7
WHERE (SELECT count(*) FROM sandbox.endpoints WHERE project = $2 AND mode = $3) < $8
RETURNING id, customer, is_public, name, definition, revision, created_at, updated_at;

-- name: find
SELECT id, customer, is_public, name, definition, revision, created_at, updated_at FROM sandbox.endpoints
WHERE id = $1 AND project = $2 AND mode = $3;

-- name: find_public
SELECT id, mode, customer, is_public, name, definition, revision, created_at, updated_at FROM sandbox.endpoints
WHERE id = $1 AND project = $2 AND is_public;

-- name: page
SELECT id, customer, is_public, name, definition, revision, created_at, updated_at FROM sandbox.endpoints
WHERE project = $1 AND mode = $2 AND ($3 = '' OR customer = $3) AND ($4 = '' OR id < $4)
ORDER BY id DESC
LIMIT $5;

-- name: change
UPDATE sandbox.endpoints
SET is_public = $4, name = $5, definition = $6, revision = revision + 1, updated_at = now()
WHERE id = $1 AND project = $2 AND mode = $3
RETURNING id, customer, is_public, name, definition, revision, created_at, updated_at;

-- name: remove
DELETE FROM sandbox.endpoints WHERE id = $1 AND project = $2 AND mode = $3;

-- name: log
INSERT INTO sandbox.endpoint_calls (endpoint, run, at, method, path, status, duration_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING;

-- name: trim
DELETE FROM sandbox.endpoint_calls
WHERE endpoint = $1 AND run NOT IN (
    SELECT run FROM sandbox.endpoint_calls WHERE endpoint = $1 ORDER BY run DESC LIMIT 100
);

-- name: calls
SELECT run, at, method, path, status, duration_ms FROM sandbox.endpoint_calls
WHERE endpoint = $1
ORDER BY run DESC
LIMIT 100;
