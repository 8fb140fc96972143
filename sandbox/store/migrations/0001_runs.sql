CREATE TABLE sandbox.runs (
    id          text PRIMARY KEY,
    project     text NOT NULL,
    mode        text NOT NULL,
    customer    text NOT NULL,
    created_at  timestamptz NOT NULL,
    summary     jsonb NOT NULL, -- what a list shows
    result      bytea NOT NULL  -- the whole reply, JSON, zstd
);
CREATE INDEX runs_by_owner ON sandbox.runs (project, mode, id DESC);
CREATE INDEX runs_by_age ON sandbox.runs (created_at);

CREATE TABLE sandbox.idempotency (
    project     text NOT NULL,
    mode        text NOT NULL,
    customer    text NOT NULL,
    key         text NOT NULL,
    request     bytea NOT NULL, -- SHA-256 of the body
    run         text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project, mode, customer, key)
);
CREATE INDEX idempotency_by_age ON sandbox.idempotency (created_at);
