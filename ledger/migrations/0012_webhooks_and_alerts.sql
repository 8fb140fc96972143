-- What projects are told: events at addresses of theirs (webhooks), and mail when a customer nears a quota (alerts).
--
-- Each endpoint gets its deliveries in the order of their ids: the oldest that is pending is tried until it is taken or
-- three days old, and only then the next. Gateways hold none of this.

CREATE TABLE webhook_endpoints (
    id                text PRIMARY KEY,
    project_id        text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode              text NOT NULL CHECK (mode IN ('live', 'test')),
    url               text NOT NULL CHECK (length(url) <= 2000),
    events            text[] NOT NULL DEFAULT '{}',             -- empty: all
    secret            bytea NOT NULL,                           -- sealed (ledger.vault)
    old_secret        bytea,                                    -- signs beside the new one until …
    old_secret_until  timestamptz,
    is_enabled        boolean NOT NULL DEFAULT true,
    created_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_endpoints_project ON webhook_endpoints (project_id, mode, id);

CREATE TABLE webhook_messages (
    id          text PRIMARY KEY,
    project_id  text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode        text NOT NULL CHECK (mode IN ('live', 'test')),
    type        text NOT NULL,
    body        text NOT NULL,                                  -- to the letter what is signed and sent
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_messages_project ON webhook_messages (project_id);
CREATE INDEX webhook_messages_old ON webhook_messages (created_at);

CREATE TABLE webhook_deliveries (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_id   text NOT NULL REFERENCES webhook_endpoints ON DELETE CASCADE,
    message_id    text NOT NULL REFERENCES webhook_messages ON DELETE CASCADE,
    state         text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'given_up')),
    attempts      integer NOT NULL DEFAULT 0,
    available_at  timestamptz NOT NULL DEFAULT now(),
    last_status   smallint,
    last_error    text,
    last_at       timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (endpoint_id, id) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_log ON webhook_deliveries (endpoint_id, id DESC);
CREATE INDEX webhook_deliveries_message ON webhook_deliveries (message_id);

ALTER TABLE projects ADD COLUMN alert_percents smallint[] NOT NULL DEFAULT '{50,80,100}';
ALTER TABLE projects ADD COLUMN alerts_by_mail boolean NOT NULL DEFAULT true;

-- One per customer, meter, period and threshold, ever.
CREATE TABLE alerts (
    id            text NOT NULL,
    project_id    text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode          text NOT NULL CHECK (mode IN ('live', 'test')),
    customer_id   text NOT NULL,
    meter         text NOT NULL,
    period_start  timestamptz NOT NULL,
    percent       smallint NOT NULL,
    used          bigint NOT NULL,
    quota         bigint NOT NULL,
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, customer_id, meter, period_start, percent)
);
CREATE INDEX alerts_newest ON alerts (project_id, mode, id);
