-- name: mails
SELECT recipient, subject, body, created_at FROM dev_mails ORDER BY id DESC LIMIT 100
