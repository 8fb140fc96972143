-- name: here
INSERT INTO sandbox.nodes (name, seen_at) VALUES ($1, now()) ON CONFLICT (name) DO UPDATE SET seen_at = now();

-- name: others
SELECT name FROM sandbox.nodes WHERE name <> $1 AND seen_at > now() - $2::interval;

-- name: gone
DELETE FROM sandbox.nodes WHERE name = $1 OR seen_at < now() - interval '1 hour';

-- name: say
SELECT pg_notify('tollgate_sandbox', $1);
