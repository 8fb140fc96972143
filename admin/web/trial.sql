-- name: event
SELECT status, outcome, meters::text AS meters, duration_us, upstream_us FROM usage_events
WHERE project_id = $1 AND at > now() - interval '2 minutes' AND at < now() + interval '2 minutes' AND id = $2
