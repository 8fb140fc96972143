-- Statements of ledger/alerts.py.

-- name: near
-- Customers who were counted in this hour or the one before, with each quota of theirs of which the days of the last
-- month hold at least the lowest threshold: no less than their period can.
SELECT p.id AS project_id, p.name AS project, p.alert_percents, p.alerts_by_mail, c.mode, c.id AS customer_id,
       coalesce(c.name, c.external_id) AS customer, s.anchor_at, q.meter, q.quota
FROM projects p
JOIN LATERAL (
    SELECT DISTINCT h.customer_id FROM usage_hourly h
    WHERE h.project_id = p.id AND h.mode IN ('live', 'test') AND h.hour >= date_trunc('hour', now()) - interval '1 hour'
      AND h.customer_id <> ''
) seen ON true
JOIN customers c ON c.id = seen.customer_id
LEFT JOIN subscriptions s ON s.customer_id = c.id AND s.status <> 'canceled'
JOIN tiers t ON t.id = coalesce(s.tier_id,
    (SELECT d.id FROM tiers d WHERE d.project_id = c.project_id AND d.mode = c.mode AND d.is_default))
JOIN tier_quotas q ON q.tier_id = t.id AND q.quota > 0
WHERE p.alert_percents <> '{}' AND (
    SELECT sum(u.quantity) FROM usage_daily u
    WHERE u.project_id = p.id AND u.mode = c.mode AND u.customer_id = c.id AND u.meter = q.meter
      AND u.day >= (now() AT TIME ZONE 'UTC')::date - 32
) * 100 >= q.quota * (SELECT min(x) FROM unnest(p.alert_percents) x)
LIMIT 2000

-- name: capped
-- Customers who were counted in this hour or the one before, and whose tier has a spend cap.
SELECT p.id AS project_id, p.name AS project, p.alert_percents, p.alerts_by_mail, c.mode, c.id AS customer_id,
       coalesce(c.name, c.external_id) AS customer, s.anchor_at, t.id AS tier_id, t.spend_cap_minor AS quota, t.currency
FROM projects p
JOIN LATERAL (
    SELECT DISTINCT h.customer_id FROM usage_hourly h
    WHERE h.project_id = p.id AND h.mode IN ('live', 'test') AND h.hour >= date_trunc('hour', now()) - interval '1 hour'
      AND h.customer_id <> ''
) seen ON true
JOIN customers c ON c.id = seen.customer_id
LEFT JOIN subscriptions s ON s.customer_id = c.id AND s.status <> 'canceled'
JOIN tiers t ON t.spend_cap_minor > 0 AND t.id = coalesce(s.tier_id,
    (SELECT d.id FROM tiers d WHERE d.project_id = c.project_id AND d.mode = c.mode AND d.is_default))
WHERE p.alert_percents <> '{}' AND EXISTS (SELECT FROM tiers x WHERE x.project_id = p.id AND x.spend_cap_minor > 0)
LIMIT 2000

-- name: note
INSERT INTO alerts (id, project_id, mode, customer_id, meter, period_start, percent, used, quota)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (project_id, customer_id, meter, period_start, percent) DO NOTHING RETURNING percent

-- name: readers
SELECT a.email FROM members m JOIN accounts a ON a.id = m.account_id
WHERE m.project_id = $1 AND m.role IN ('owner', 'admin') ORDER BY a.id LIMIT 20

-- name: mails
SELECT count(*) FROM outbox WHERE topic = 'mail' AND dedup_key LIKE 'alert:%' AND project_id = $1
  AND created_at > now() - interval '1 hour'
