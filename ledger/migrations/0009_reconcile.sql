-- What reconciliation found, and what Stripe's own sums were when it last looked.

CREATE TABLE reconciliations (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began_at      timestamptz NOT NULL,
    ended_at      timestamptz NOT NULL DEFAULT now(),
    period_start  timestamptz NOT NULL,
    period_end    timestamptz NOT NULL,
    project_id    text,                                     -- NULL: all
    is_repair     boolean NOT NULL,
    drift         jsonb NOT NULL,                           -- {"hourly": 0, …}: units by which two books differ
    report        jsonb NOT NULL
);
CREATE INDEX reconciliations_newest ON reconciliations (ended_at DESC);

CREATE TABLE stripe_seen (
    project_id   text NOT NULL,
    mode         text NOT NULL,
    customer_id  text NOT NULL,
    meter        text NOT NULL,
    hour         timestamptz NOT NULL,
    units        numeric(38, 0) NOT NULL,
    seen_at      timestamptz NOT NULL,
    PRIMARY KEY (project_id, mode, customer_id, meter, hour)
);
