-- name: page
SELECT a.id, a.at, a.actor, a.action, a.noun, a.object_id, a.before::text AS before, a.after::text AS after,
       acc.email, k.name AS key_name, k.prefix AS key_prefix
FROM (
    SELECT * FROM audit WHERE project_id = $1 AND ($2::bigint IS NULL OR id < $2) AND ($3::text IS NULL OR noun = $3)
    ORDER BY id DESC LIMIT $4
) a
LEFT JOIN accounts acc ON a.actor = 'account:' || acc.id
LEFT JOIN keys k ON a.actor = 'key:' || k.id AND k.project_id = $1
ORDER BY a.id DESC
