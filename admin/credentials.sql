-- name: sealed
SELECT 'upstream' AS noun, id, secret FROM upstreams WHERE secret IS NOT NULL
UNION ALL
SELECT 'route', id, secret FROM routes WHERE secret IS NOT NULL
UNION ALL
SELECT 'endpoint', id, secret FROM webhook_endpoints
UNION ALL
SELECT 'old_endpoint', id, old_secret FROM webhook_endpoints WHERE old_secret IS NOT NULL
ORDER BY id

-- name: reseal_upstream
UPDATE upstreams SET secret = $2 WHERE id = $1

-- name: reseal_route
UPDATE routes SET secret = $2 WHERE id = $1

-- name: reseal_endpoint
UPDATE webhook_endpoints SET secret = $2 WHERE id = $1

-- name: reseal_old_endpoint
UPDATE webhook_endpoints SET old_secret = $2 WHERE id = $1
