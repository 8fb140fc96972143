-- Customers are looked for by how their id or e-mail address begins.
CREATE INDEX customers_external_beginning ON customers (project_id, mode, external_id COLLATE "C");
CREATE INDEX customers_email_beginning ON customers (project_id, mode, lower(email) COLLATE "C");
