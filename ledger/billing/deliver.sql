-- Statements of ledger/billing/deliver.py.

-- name: claim
-- The oldest due entry of each customer and meter, if nobody has it: one call at a time for each, over all workers. One
-- that Stripe may have stays with the account and customer it was sent to, whatever is connected and linked by now.
-- $1 who, $2 until when, $3 modes with a key, $4 how many, $5 now.
WITH heads AS (
    SELECT DISTINCT ON (project_id, mode, customer_id, meter) id, available_at, leased_until
    FROM billing_entries
    WHERE state = 'due' AND mode = ANY($3)
    ORDER BY project_id, mode, customer_id, meter, id
),
mine AS (
    SELECT e.id, a.account, c.stripe_customer_id, e.doubt_since,
        e.doubt_since IS NOT NULL AND e.stripe_customer_id IS NOT NULL AS is_pinned
    FROM billing_entries e
    JOIN heads h ON h.id = e.id
    JOIN stripe_accounts a ON a.project_id = e.project_id AND a.mode = e.mode
    JOIN stripe_customers c ON c.project_id = e.project_id AND c.mode = e.mode AND c.customer_id = e.customer_id
    WHERE e.state = 'due' AND e.available_at <= $5 AND (e.leased_until IS NULL OR e.leased_until < $5)
    ORDER BY e.available_at, e.id
    LIMIT $4
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE billing_entries e
SET leased_until = $2, leased_by = $1, attempts = e.attempts + 1, doubt_since = coalesce(e.doubt_since, $5),
    account = CASE WHEN mine.is_pinned THEN e.account ELSE mine.account END,
    stripe_customer_id = CASE WHEN mine.is_pinned THEN e.stripe_customer_id ELSE mine.stripe_customer_id END
FROM mine
WHERE e.id = mine.id
RETURNING e.id, e.project_id, e.mode, e.customer_id, e.meter, e.starts_at, e.identifier, e.value, e.event_name, e.attempts,
    e.turn, e.account, e.stripe_customer_id, mine.doubt_since;

-- name: settle
-- What became of an entry; only if it is still ours. $7 is since when Stripe may have it, NULL if it certainly has not.
UPDATE billing_entries
SET state = $3, reason = $4, last_error = $5, available_at = $6, doubt_since = $7, turn = turn + $8,
    leased_until = NULL, leased_by = NULL, sent_at = CASE WHEN $3 = 'sent' THEN $9::timestamptz END
WHERE id = $1 AND leased_by = $2 AND state = 'due';

-- name: expire
-- What is too old for Stripe by now.
UPDATE billing_entries
SET state = 'dead', reason = CASE WHEN doubt_since IS NULL THEN 'too_old' ELSE 'too_old_in_doubt' END
WHERE state = 'due' AND starts_at < $1 AND (leased_until IS NULL OR leased_until < $2)
RETURNING identifier, reason;

-- name: of_hour
-- What else is known of the hour an entry lies in: sent for certain, and due but perhaps sent.
SELECT id, value, state
FROM billing_entries
WHERE project_id = $1 AND mode = $2 AND customer_id = $3 AND meter = $4 AND starts_at >= $5
    AND starts_at < $5::timestamptz + interval '1 hour' AND value > 0
    AND (state = 'sent' OR (state = 'due' AND doubt_since IS NOT NULL))
    AND coalesce(account, '') = coalesce($6, '') AND coalesce(stripe_customer_id, $7) = $7
ORDER BY id;

-- name: levels
-- Each from its own partial index.
SELECT
    (SELECT count(*) FROM billing_entries WHERE state = 'due') AS due,
    (SELECT count(*) FROM billing_entries WHERE state = 'dead') AS dead,
    (SELECT min(starts_at) FROM billing_entries WHERE state = 'due') AS oldest,
    (SELECT count(*) FROM billing_slots WHERE is_pending) AS pending;
