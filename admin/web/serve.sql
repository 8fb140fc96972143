-- name: first
-- A row only for the first of several equal forms.
INSERT INTO idempotent_requests (project_id, mode, idem, fingerprint, status) VALUES ($1, $2, $3, $4, 303)
ON CONFLICT (project_id, mode, idem) DO NOTHING RETURNING idem
