CREATE TABLE sandbox.endpoints (
    id          text PRIMARY KEY,
    project     text NOT NULL,
    mode        text NOT NULL,
    customer    text NOT NULL, -- "" for the project's own
    is_public   boolean NOT NULL,
    name        text NOT NULL,
    definition  bytea NOT NULL, -- what is run, JSON, zstd
    revision    integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX endpoints_by_owner ON sandbox.endpoints (project, mode, id DESC);

CREATE TABLE sandbox.endpoint_calls (
    endpoint    text NOT NULL REFERENCES sandbox.endpoints (id) ON DELETE CASCADE,
    run         text NOT NULL,
    at          timestamptz NOT NULL,
    method      text NOT NULL,
    path        text NOT NULL,
    status      integer NOT NULL,
    duration_ms integer NOT NULL,
    PRIMARY KEY (endpoint, run)
);
