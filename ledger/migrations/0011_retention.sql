-- Months of events that live in files now, and when this ledger was restored from a backup.

CREATE TABLE archives (
    name         text PRIMARY KEY,                          -- of the partition, usage_events_2026_01
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz NOT NULL,
    path         text NOT NULL,
    events       bigint NOT NULL,
    sha256       text NOT NULL,                             -- of the file
    archived_at  timestamptz NOT NULL DEFAULT now()
);

-- What was told to Stripe between the backup and its restore is not known here: entries of slots before `restored_at` are
-- compared with Stripe's own sums before they are sent.
CREATE TABLE restores (
    restored_at  timestamptz PRIMARY KEY,
    backup_at    timestamptz NOT NULL
);
