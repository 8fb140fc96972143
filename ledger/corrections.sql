-- Statements of ledger/corrections.py.

-- name: lock
-- Corrections of one event, one after the other.
SELECT pg_advisory_xact_lock(hashtextextended($1, 7240318805));

-- name: lock_billing
SELECT pg_advisory_xact_lock_shared(7240318803);
