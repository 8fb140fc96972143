-- name: sealed
SELECT 'upstream' AS noun, id, secret FROM upstreams WHERE secret IS NOT NULL
UNION ALL
SELECT 'route', id, secret FROM routes WHERE secret IS NOT NULL
ORDER BY id

-- name: reseal_upstream
UPDATE upstreams SET secret = $2 WHERE id = $1

-- name: reseal_route
UPDATE routes SET secret = $2 WHERE id = $1
