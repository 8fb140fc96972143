-- name: begin
-- The anchor is a whole second: quota periods are named by the Unix second they begin at.
INSERT INTO subscriptions (id, project_id, mode, customer_id, tier_id, status, anchor_at, trial_ends_at)
SELECT $1, t.project_id, t.mode, $4, t.id,
       CASE WHEN t.trial_days > 0 THEN 'trialing' ELSE 'active' END,
       date_trunc('second', now()),
       CASE WHEN t.trial_days > 0 THEN date_trunc('second', now()) + make_interval(days => t.trial_days) END
FROM tiers t WHERE t.project_id = $2 AND t.mode = $3 AND t.name = $5

-- name: move
UPDATE subscriptions s SET tier_id = t.id
FROM tiers t
WHERE t.project_id = $1 AND t.mode = $2 AND t.name = $4 AND s.customer_id = $3 AND s.status <> 'canceled'

-- name: end
UPDATE subscriptions SET status = 'canceled', canceled_at = now() WHERE customer_id = $1 AND status <> 'canceled'
