-- Statements of ledger/partitions.py. Names and bounds in braces are made from a year and a month, never from input.

-- name: present
SELECT c.relname
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'usage_events'::regclass;

-- name: create
CREATE TABLE {name} (LIKE usage_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE usage_events ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}');

-- name: trim_changes
DELETE FROM changes
WHERE at < now() - interval '1 day' AND revision < (SELECT max(revision) FROM changes);
