-- name: revision
SELECT coalesce(max(revision), 0) FROM changes

-- name: oldest_revision
SELECT coalesce(min(revision), 0) FROM changes

-- name: changes_since
SELECT revision, noun, object_id, project_id FROM changes WHERE revision > $1 ORDER BY revision LIMIT 10000

-- name: routes
SELECT r.id, r.project_id, r.name, r.spec::text AS spec, u.id AS upstream_id, u.spec::text AS upstream_spec,
       r.secret, u.secret AS upstream_secret
FROM routes r JOIN upstreams u ON u.id = r.upstream_id

-- name: issuers
SELECT id, project_id, name, spec::text AS spec FROM issuers

-- name: key_by_hash
SELECT k.id, k.project_id, k.mode, k.kind, k.scopes, k.requests_per_minute, k.allowed_origins, k.allowed_ips,
       extract(epoch FROM k.expires_at)::float8 AS expires_at, k.revoked_at IS NOT NULL AS is_revoked, k.customer_id
FROM keys k WHERE k.hash = $1

-- name: customer_by_id
SELECT c.id, c.project_id, c.mode, c.external_id, s.tier_id, s.anchor_at
FROM customers c LEFT JOIN subscriptions s ON s.customer_id = c.id AND s.status <> 'canceled'
WHERE c.id = $1

-- name: customer_by_external
SELECT c.id, c.project_id, c.mode, c.external_id, s.tier_id, s.anchor_at
FROM customers c LEFT JOIN subscriptions s ON s.customer_id = c.id AND s.status <> 'canceled'
WHERE c.project_id = $1 AND c.mode = $2 AND c.external_id = $3

-- name: tiers
SELECT t.id, t.name, t.requests_per_minute, t.concurrent_requests, t.burst, t.is_shadow, t.is_default,
       t.spend_cap_minor, t.upgrade_url,
       coalesce(array_agg(CASE WHEN NOT q.is_hard THEN q.quota END ORDER BY q.meter) FILTER (WHERE q.meter IS NOT NULL), '{}') AS included,
       coalesce(array_agg(CASE WHEN NOT q.is_hard THEN q.overage_unit_price END ORDER BY q.meter) FILTER (WHERE q.meter IS NOT NULL), '{}') AS prices,
       coalesce(array_agg(q.meter ORDER BY q.meter) FILTER (WHERE q.meter IS NOT NULL), '{}') AS meters,
       coalesce(array_agg(CASE WHEN q.is_hard THEN q.quota END ORDER BY q.meter) FILTER (WHERE q.meter IS NOT NULL), '{}') AS quotas
FROM tiers t LEFT JOIN tier_quotas q ON q.tier_id = t.id
WHERE t.project_id = $1 AND t.mode = $2
GROUP BY t.id
