CREATE TABLE sandbox.nodes (
    name        text PRIMARY KEY,
    seen_at     timestamptz NOT NULL
);
