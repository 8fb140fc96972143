-- Statements of ledger/backup.py. Names in braces come from the catalogue.

-- name: tables
-- Ordinary and partitioned tables of ours, those that others refer to first.
WITH RECURSIVE wanted AS (
    SELECT c.oid, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'schema_migrations'
),
depths AS (
    SELECT oid, name, 0 AS depth FROM wanted
    UNION ALL
    SELECT w.oid, w.name, d.depth + 1
    FROM depths d
    JOIN pg_constraint f ON f.confrelid = d.oid AND f.contype = 'f' AND f.conrelid <> f.confrelid
    JOIN wanted w ON w.oid = f.conrelid
    WHERE d.depth < 20
)
SELECT name, max(depth) AS depth, (
    SELECT array_agg(quote_ident(a.attname) ORDER BY a.attnum) FROM pg_attribute a
    WHERE a.attrelid = depths.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
) AS columns, (
    SELECT a.attname FROM pg_attribute a WHERE a.attrelid = depths.oid AND a.attidentity <> '' AND NOT a.attisdropped
) AS identity
FROM depths GROUP BY oid, name ORDER BY max(depth), name;

-- name: partitions
SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'usage_events'::regclass ORDER BY 1;

-- name: migrations
SELECT name, checksum FROM schema_migrations ORDER BY version;

-- name: is_used
SELECT EXISTS (SELECT FROM usage_events) OR EXISTS (SELECT FROM usage_daily) OR EXISTS (SELECT FROM customers)
    OR EXISTS (SELECT FROM keys) OR (SELECT count(*) > 1 FROM projects);

-- name: next_number
SELECT pg_sequence_last_value(pg_get_serial_sequence($1, $2)::regclass);

-- name: set_number
SELECT setval(pg_get_serial_sequence($1, $2)::regclass, $3);

-- name: note_restore
INSERT INTO restores (restored_at, backup_at) VALUES (now(), $1);

-- name: doubt
-- What was due when the backup was made may have been sent since.
UPDATE billing_entries SET doubt_since = 'epoch', leased_until = NULL, leased_by = NULL WHERE state = 'due';
