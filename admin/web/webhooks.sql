-- name: alerts
SELECT a.id, a.customer_id, coalesce(c.name, c.external_id) AS customer, a.meter, a.percent, a.used, a.quota, a.at
FROM alerts a LEFT JOIN customers c ON c.id = a.customer_id
WHERE a.project_id = $1 AND a.mode = $2 ORDER BY a.id DESC LIMIT 50
