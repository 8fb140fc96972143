-- Where an entry was sent: it stays with that account and customer while it is in doubt, and is looked for there.
ALTER TABLE billing_entries
    ADD COLUMN account text,
    ADD COLUMN stripe_customer_id text;
UPDATE billing_entries e SET account = a.account, stripe_customer_id = c.stripe_customer_id
FROM stripe_accounts a, stripe_customers c
WHERE a.project_id = e.project_id AND a.mode = e.mode AND c.project_id = e.project_id AND c.mode = e.mode
    AND c.customer_id = e.customer_id AND (e.state = 'sent' OR e.doubt_since IS NOT NULL);
