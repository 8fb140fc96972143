-- Statements of ledger/billing/notices.py.

-- name: store
INSERT INTO stripe_events (event_id, account, mode, kind, payload, state, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: newest
SELECT event_id, account, mode, kind, state, reason, attempts, received_at, handled_at
FROM stripe_events ORDER BY received_at DESC, event_id LIMIT $1;
