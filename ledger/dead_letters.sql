-- Statements of ledger/dead_letters.py.

-- name: list
SELECT * FROM (
    SELECT 'stream' AS kind, id, at, reason, stream AS source, entry_id AS name,
        left(convert_from(CASE WHEN payload IS NULL THEN '' ELSE payload END, 'LATIN1'), 400) AS excerpt
    FROM dead_letters
    UNION ALL
    SELECT 'billing', id, created_at, coalesce(reason, ''), project_id || ' ' || mode, identifier,
        customer_id || ' ' || meter || ' ' || starts_at || ': ' || value
    FROM billing_entries WHERE state = 'dead'
) letters
WHERE ($1::text IS NULL OR kind = $1)
ORDER BY at DESC, id DESC
LIMIT $2 OFFSET $3;

-- name: take
SELECT id, stream, entry_id, payload FROM dead_letters WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED;

-- name: lock_billing
SELECT pg_advisory_xact_lock_shared(7240318803);

-- name: remove
DELETE FROM dead_letters WHERE id = $1;

-- name: say_why
UPDATE dead_letters SET reason = $2 WHERE id = $1;

-- name: doubtful
SELECT id FROM billing_entries WHERE id = ANY($1) AND reason IN ('ambiguous', 'too_old_in_doubt');
