-- Statements of ledger/billing/reports.py.

-- name: claim
-- Notices that are due, with the connected account they are of, if we know it; else they are the platform's own.
-- $1 now, $2 until when they are left alone, $3 modes with a key, $4 how many.
WITH mine AS (
    SELECT event_id FROM stripe_events
    WHERE state = 'received' AND available_at <= $1 AND mode = ANY($3)
    ORDER BY available_at, event_id
    LIMIT $4
    FOR UPDATE SKIP LOCKED
)
UPDATE stripe_events e
SET attempts = attempts + 1, available_at = $2
FROM mine
WHERE e.event_id = mine.event_id
RETURNING e.event_id, e.mode, e.attempts, (
    SELECT a.account FROM stripe_accounts a WHERE a.account = e.account AND a.mode = e.mode LIMIT 1
) AS connected;

-- name: handled
UPDATE stripe_events SET state = 'handled', reason = NULL, handled_at = $2 WHERE event_id = $1 AND state = 'received'
RETURNING event_id;

-- name: not_now
UPDATE stripe_events SET state = $2, reason = $3, available_at = $4 WHERE event_id = $1 AND state = 'received';

-- name: accounts
SELECT DISTINCT mode, account FROM stripe_accounts WHERE mode = ANY($1);

-- name: known
SELECT event_id FROM stripe_reports WHERE account = $1 AND mode = $2;

-- name: keep
INSERT INTO stripe_reports (event_id, account, mode, kind, errors, payload) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: reject
-- Accepted, and found wrong afterwards; also one whose answer was lost, as Stripe knows its identifier by now all the same.
UPDATE billing_entries e
SET state = 'dead', reason = r.code, leased_until = NULL, leased_by = NULL
FROM unnest($1::text[], $2::text[]) AS r (identifier, code)
WHERE e.identifier = r.identifier AND e.state IN ('sent', 'due');
