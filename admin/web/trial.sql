-- name: event
SELECT e.status, e.outcome, e.meters::text AS meters, e.duration_us, e.upstream_us, r.name AS route,
       coalesce(t.title, t.name) AS tier
FROM usage_events e
LEFT JOIN routes r ON r.id = e.route_id AND r.project_id = $1
LEFT JOIN subscriptions s ON s.customer_id = e.customer_id AND s.project_id = $1 AND s.status <> 'canceled'
LEFT JOIN tiers t ON t.project_id = $1 AND e.customer_id IS NOT NULL AND t.id = coalesce(s.tier_id, (
    SELECT id FROM tiers WHERE project_id = $1 AND mode = e.mode AND is_default
))
WHERE e.project_id = $1 AND e.at > now() - interval '2 minutes' AND e.at < now() + interval '2 minutes' AND e.id = $2
