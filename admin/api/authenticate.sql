-- name: key_by_hash
SELECT id, project_id, mode, kind, scopes, allowed_origins, allowed_ips, revoked_at IS NOT NULL AS is_revoked,
       coalesce(expires_at <= now(), false) AS is_expired
FROM keys WHERE hash = $1
