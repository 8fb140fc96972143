-- name: usage
SELECT project_id, sum(quantity) FILTER (WHERE meter = 'requests')::bigint AS requests FROM usage_daily
WHERE project_id = ANY ($1::text[]) AND day >= date_trunc('month', now() AT TIME ZONE 'UTC')::date GROUP BY project_id

-- name: members
SELECT project_id, count(*) AS members FROM members WHERE project_id = ANY ($1::text[]) GROUP BY project_id

-- name: health
-- The lag is that of what was stored in the last minutes: from being admitted to being in the ledger.
SELECT (SELECT count(*) FROM projects) AS projects, (SELECT count(*) FROM accounts) AS accounts,
       (SELECT count(*) FROM dead_letters) AS dead_letters,
       (SELECT count(*) FROM outbox WHERE delivered_at IS NULL AND available_at < 'infinity') AS outbox,
       (SELECT count(*) FROM outbox WHERE delivered_at IS NULL AND available_at = 'infinity') AS given_up,
       (SELECT max(version) FROM schema_migrations) AS schema_version,
       pg_database_size(current_database()) AS size,
       (SELECT extract(epoch FROM max(stored_at - at))::float8 FROM usage_events
        WHERE at > now() - interval '5 minutes') AS lag_s

-- name: mail
SELECT id, topic, attempts, last_error, created_at FROM outbox
WHERE delivered_at IS NULL AND last_error IS NOT NULL ORDER BY id DESC LIMIT 20

-- name: reconciliation
SELECT ended_at, is_repair, drift::text AS drift FROM reconciliations ORDER BY ended_at DESC LIMIT 1
