-- From the ledger to money: day rollups, corrections, and what Stripe must be told.
--
-- `billing_slots` is written in the transaction that stores the events: per customer, billed meter and hour (cut where a
-- subscription's period begins inside it) what was used, and how much of that has been sealed into entries. Entries are
-- what Stripe is told: an entry's amount and identifier never change, whatever arrives later is a further entry. So at any
-- moment, per slot: counted = sum of the events; sealed = sum of the entries that stand.

CREATE TABLE usage_daily (
    project_id   text NOT NULL,
    mode         text NOT NULL,
    day          date NOT NULL,                             -- UTC
    customer_id  text NOT NULL DEFAULT '',
    key_id       text NOT NULL DEFAULT '',
    route_id     text NOT NULL DEFAULT '',
    meter        text NOT NULL,
    quantity     numeric(38, 0) NOT NULL,
    events       bigint NOT NULL,                           -- corrections are none
    duration_us  numeric(38, 0) NOT NULL,                   -- of those events
    PRIMARY KEY (project_id, mode, day, customer_id, key_id, route_id, meter)
) WITH (fillfactor = 60);                                   -- rows are added to all day: room for it on their page
ALTER TABLE usage_hourly SET (fillfactor = 60);
CREATE INDEX usage_daily_customer ON usage_daily (project_id, mode, customer_id, day);
CREATE INDEX usage_hourly_customer ON usage_hourly (project_id, mode, customer_id, hour);

INSERT INTO usage_daily
SELECT e.project_id, e.mode, (e.at AT TIME ZONE 'UTC')::date, coalesce(e.customer_id, ''), coalesce(e.key_id, ''),
    coalesce(e.route_id, ''), m.key, sum(m.value::numeric), count(*), sum(e.duration_us)
FROM usage_events e, jsonb_each(e.meters) m
GROUP BY 1, 2, 3, 4, 5, 6, 7;

-- A correction is an event of its own, at the time of the one it corrects and with what has to be added to its meters.
ALTER TABLE usage_events
    ADD COLUMN corrects uuid,
    ADD COLUMN actor text,
    ADD COLUMN reason text;

-- Which halves of projects bill through Stripe: their connected account, NULL for the platform's own.
CREATE TABLE stripe_accounts (
    project_id    text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode          text NOT NULL CHECK (mode IN ('live', 'test')),
    account       text CHECK (account ~ '^acct_[A-Za-z0-9]+$'),
    connected_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, mode)
);

-- Who is who. No foreign key: what a deleted customer used is still billed.
CREATE TABLE stripe_customers (
    project_id          text NOT NULL,
    mode                text NOT NULL,
    customer_id         text NOT NULL,
    stripe_customer_id  text NOT NULL CHECK (stripe_customer_id ~ '^cus_[A-Za-z0-9]+$'),
    linked_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, mode, customer_id)
);

-- Usage of these meters, from `since` on, is told to Stripe under this event name. Changed only under the lock that
-- ledger.billing.billed takes, so that no event slips between.
CREATE TABLE billed_meters (
    project_id  text NOT NULL,
    mode        text NOT NULL,
    meter       text NOT NULL,
    event_name  text NOT NULL CHECK (event_name <> '' AND length(event_name) <= 100),
    since       timestamptz NOT NULL,
    until       timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (project_id, mode, meter)
);

CREATE TABLE billing_slots (
    project_id     text NOT NULL,
    mode           text NOT NULL,
    customer_id    text NOT NULL,
    meter          text NOT NULL,
    starts_at      timestamptz NOT NULL,                    -- the hour, or the period's edge inside it
    ends_at        timestamptz NOT NULL,
    period         timestamptz NOT NULL,                    -- the billing period it lies in, by its start
    counted        numeric(38, 0) NOT NULL,
    sealed         numeric(38, 0) NOT NULL DEFAULT 0,
    entries        integer NOT NULL DEFAULT 0,              -- how many were ever made: the next one's sequence
    pending_since  timestamptz NOT NULL DEFAULT now(),      -- counted and sealed differ since then, if they do
    PRIMARY KEY (project_id, mode, customer_id, meter, starts_at)
) WITH (fillfactor = 60);
CREATE INDEX billing_slots_pending ON billing_slots (pending_since) WHERE counted <> sealed;

CREATE TABLE billing_entries (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id   text NOT NULL,
    mode         text NOT NULL,
    customer_id  text NOT NULL,
    meter        text NOT NULL,
    starts_at    timestamptz NOT NULL,                      -- its slot
    sequence     integer NOT NULL,
    identifier   text NOT NULL UNIQUE,                      -- follows from the five above
    quantity     numeric(38, 0) NOT NULL,                   -- of its slot, this much is accounted for
    value        numeric(38, 0) NOT NULL CHECK (value >= 0),-- what Stripe is told
    state        text NOT NULL CHECK (state IN ('due', 'sent', 'netted', 'waived', 'dead', 'replayed')),
    reason       text,                                      -- why it is not sent, or how it came to count as sent
    netted_into  text,                                      -- the identifier whose value is less by this
    event_name   text NOT NULL,
    attempts     integer NOT NULL DEFAULT 0,
    available_at timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz,
    leased_by    text,
    doubt_since  timestamptz,                               -- Stripe may have it since then
    last_error   text,
    sent_at      timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, mode, customer_id, meter, starts_at, sequence)
);
CREATE INDEX billing_entries_due ON billing_entries (project_id, mode, customer_id, meter, id) WHERE state = 'due';
CREATE INDEX billing_entries_dead ON billing_entries (project_id, id) WHERE state = 'dead';

-- The start of the period that contains a moment: ledger.periods.period_of, for statements.
CREATE FUNCTION period_start(anchor timestamptz, moment timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT max(edge) FROM (
        SELECT (origin + make_interval(months => months + step)) AT TIME ZONE 'UTC' AS edge
        FROM (
            SELECT a.origin, ((extract(year FROM m.at) - extract(year FROM a.origin)) * 12
                + extract(month FROM m.at) - extract(month FROM a.origin))::int AS months
            FROM (SELECT coalesce(anchor, 'epoch') AT TIME ZONE 'UTC' AS origin) a,
                 (SELECT moment AT TIME ZONE 'UTC' AS at) m
        ) distance, (VALUES (-1), (0)) AS steps (step)
    ) edges
    WHERE edge <= moment
$$;
