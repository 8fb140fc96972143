-- name: recent
SELECT a.id, a.customer_id, coalesce(c.name, c.external_id) AS customer, a.meter, a.percent, a.used, a.quota, a.at
FROM alerts a LEFT JOIN customers c ON c.id = a.customer_id AND c.project_id = $1
WHERE a.project_id = $1 AND a.mode = $2 AND ($3::text IS NULL OR a.id < $3) ORDER BY a.id DESC LIMIT $4
