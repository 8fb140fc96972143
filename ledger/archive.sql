-- Statements of ledger/archive.py. Names in braces are those of partitions, made from a year and a month.

-- name: attached
SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'usage_events'::regclass AND NOT i.inhdetachpending
ORDER BY 1;

-- name: rollup_differs
-- What the daily rollup says otherwise than the events: a month is archived only if nothing does.
SELECT count(*) FROM (
    SELECT project_id, mode, (at AT TIME ZONE 'UTC')::date AS day, coalesce(customer_id, '') AS customer_id,
        coalesce(key_id, '') AS key_id, coalesce(route_id, '') AS route_id, m.key AS meter, sum(m.value::numeric) AS quantity
    FROM {name}, jsonb_each(meters) m GROUP BY 1, 2, 3, 4, 5, 6, 7
) e
FULL JOIN (SELECT * FROM usage_daily WHERE day >= $1 AND day < $2) r
    USING (project_id, mode, day, customer_id, key_id, route_id, meter)
WHERE e.quantity IS DISTINCT FROM r.quantity;

-- name: unsettled
-- Slots of the month whose entries are still on their way, or may need the events.
SELECT count(*) FROM billing_slots s
WHERE s.starts_at >= $1 AND s.starts_at < $2 AND ((s.is_pending AND s.counted > s.sealed) OR EXISTS (
    SELECT FROM billing_entries e WHERE e.project_id = s.project_id AND e.mode = s.mode AND e.customer_id = s.customer_id
        AND e.meter = s.meter AND e.starts_at = s.starts_at AND e.state = 'due'));

-- name: lock
LOCK TABLE {name} IN SHARE MODE;

-- name: detach
ALTER TABLE usage_events DETACH PARTITION {name};

-- name: drop
DROP TABLE {name};

-- name: note
INSERT INTO archives (name, starts_at, ends_at, path, events, sha256) VALUES ($1, $2, $3, $4, $5, $6);

-- name: list
SELECT name, starts_at, ends_at, path, events, sha256, archived_at FROM archives ORDER BY name;

-- name: one
SELECT name, starts_at, ends_at, path, events, sha256, archived_at FROM archives WHERE name = $1;

-- name: forget
DELETE FROM archives WHERE name = $1;
