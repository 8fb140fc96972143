-- name: connections
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
       current_setting('max_connections')::int AS most;

-- name: partitions
SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'usage_events'::regclass;

-- name: dead_letters
SELECT count(*) AS entries, (SELECT reason FROM dead_letters ORDER BY id DESC LIMIT 1) AS newest FROM dead_letters;

-- name: sealed
SELECT id, secret FROM upstreams WHERE secret IS NOT NULL
UNION ALL SELECT id, secret FROM routes WHERE secret IS NOT NULL;
