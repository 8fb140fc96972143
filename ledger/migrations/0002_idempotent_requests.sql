-- Answers to requests that carried an Idempotency-Key, kept for a day so that a retry gets the same answer.
--
-- A row is written in the transaction of the change it answers for: there is no answer without the change, nor the other
-- way round. `body` is NULL where the answer held the text of a new key, which is never stored.
CREATE TABLE idempotent_requests (
    project_id   text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode         text NOT NULL CHECK (mode IN ('live', 'test')),
    idem         text NOT NULL CHECK (idem <> '' AND length(idem) <= 255),
    fingerprint  bytea NOT NULL CHECK (length(fingerprint) = 32),  -- SHA-256 of method, target and body
    status       smallint NOT NULL,
    location     text,
    body         text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, mode, idem)
);
CREATE INDEX idempotent_requests_oldest ON idempotent_requests (created_at);
