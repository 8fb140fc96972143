-- name: select
SELECT t.id, t.created_at, t.name, t.title, t.price_minor, t.currency, t.billing_interval, t.requests_per_minute,
       t.burst, t.is_shadow AS shadow, t.concurrent_requests, t.spend_cap_minor, t.trial_days, t.features::text AS features, t.is_default AS default, t.is_popular AS popular, t.upgrade_url,
       (SELECT coalesce(json_object_agg(q.meter, json_build_object(
                   'limit', q.quota, 'hard', q.is_hard, 'overage_price', q.overage_unit_price::text)), '{}')::text
        FROM tier_quotas q WHERE q.tier_id = t.id) AS quotas
FROM tiers t WHERE t.project_id = $1 AND t.mode = $2

-- name: of_page
AND ($3::text IS NULL OR t.id < $3) ORDER BY t.id DESC LIMIT $4

-- name: of_id
AND t.id = $3

-- name: of_default_but
AND t.is_default AND t.name <> $3

-- name: of_names
AND ($3::text[] IS NULL OR t.name = ANY($3)) ORDER BY t.name

-- name: insert
INSERT INTO tiers (id, project_id, mode, name, title, price_minor, currency, billing_interval, requests_per_minute,
                   concurrent_requests, spend_cap_minor, trial_days, features, is_default, is_popular, burst, is_shadow,
                   upgrade_url)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::text::jsonb, $14, $15, $16, $17, $18)

-- name: update
UPDATE tiers SET title = $2, price_minor = $3, currency = $4, billing_interval = $5, requests_per_minute = $6,
                 concurrent_requests = $7, spend_cap_minor = $8, trial_days = $9, features = $10::text::jsonb,
                 is_default = $11, is_popular = $12, burst = $13, is_shadow = $14, upgrade_url = $15
WHERE id = $1

-- name: put_quota
INSERT INTO tier_quotas (tier_id, meter, quota, is_hard, overage_unit_price) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tier_id, meter) DO UPDATE SET quota = $3, is_hard = $4, overage_unit_price = $5

-- name: delete_quota
DELETE FROM tier_quotas WHERE tier_id = $1 AND meter = $2

-- name: subscriptions
SELECT count(*) AS total, count(*) FILTER (WHERE status <> 'canceled') AS current
FROM subscriptions WHERE tier_id = $1

-- name: delete
DELETE FROM tiers WHERE id = $1
