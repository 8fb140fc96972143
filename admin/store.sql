-- name: lock_control_tables
SELECT pg_advisory_xact_lock(7240318801)

-- name: version
SELECT max(version) FROM schema_migrations
