-- Delivery of billing entries to Stripe, and what Stripe reports afterwards about entries it had accepted.

ALTER TABLE billing_entries ADD COLUMN turn integer NOT NULL DEFAULT 0;  -- answers of 5xx so far: Stripe repeats those to a key

CREATE TABLE stripe_reports (
    event_id    text PRIMARY KEY,
    account     text NOT NULL DEFAULT '',                   -- '' is the platform's own
    mode        text NOT NULL,
    kind        text NOT NULL,
    errors      bigint NOT NULL,
    payload     jsonb NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT now()
);
