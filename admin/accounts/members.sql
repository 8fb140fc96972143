-- name: role
SELECT role FROM members WHERE account_id = $1 AND project_id = $2

-- name: projects
SELECT p.id, p.name, p.kind, p.created_at, m.role FROM members m JOIN projects p ON p.id = m.project_id
WHERE m.account_id = $1 ORDER BY p.id = 'prj_platform', p.name LIMIT 500

-- name: members
SELECT a.id AS account_id, a.email, m.role, m.created_at, a.last_signed_in_at
FROM members m JOIN accounts a ON a.id = m.account_id WHERE m.project_id = $1 ORDER BY m.created_at, a.id LIMIT 500

-- name: member
SELECT a.id AS account_id, a.email, m.role, m.created_at, a.last_signed_in_at
FROM members m JOIN accounts a ON a.id = m.account_id WHERE m.project_id = $1 AND a.id = $2

-- name: member_by_email
SELECT a.id FROM members m JOIN accounts a ON a.id = m.account_id WHERE m.project_id = $1 AND a.email = $2

-- name: owners
SELECT count(*) FROM members WHERE project_id = $1 AND role = 'owner'

-- name: put
INSERT INTO members (project_id, account_id, role) VALUES ($1, $2, $3)
ON CONFLICT (project_id, account_id) DO UPDATE SET role = $3

-- name: remove
DELETE FROM members WHERE project_id = $1 AND account_id = $2

-- name: invite
INSERT INTO invitations (id, project_id, email, role, invited_by, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + interval '7 days')
ON CONFLICT (project_id, email) DO UPDATE
    SET id = excluded.id, role = excluded.role, invited_by = excluded.invited_by, created_at = now(),
        expires_at = excluded.expires_at

-- name: invitations
SELECT i.id, i.project_id, p.name AS project, i.email, i.role, i.created_at, i.expires_at
FROM invitations i JOIN projects p ON p.id = i.project_id

-- name: of_project
WHERE i.project_id = $1 AND i.expires_at > now() ORDER BY i.created_at DESC LIMIT 200

-- name: of_email
WHERE i.email = $1 AND i.expires_at > now() ORDER BY i.created_at DESC LIMIT 200

-- name: withdraw
DELETE FROM invitations WHERE id = $1 RETURNING project_id, email, role
