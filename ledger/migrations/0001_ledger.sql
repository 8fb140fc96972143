-- The book of record: who exists (control tables), what happened (usage), what must still be told (outbox).
--
-- Control tables are written by admin (and by the worker, for customers first seen at a gateway). Every change to one that
-- a gateway may hold in memory adds a row to `changes` and notifies channel `tollgate_changes` in the same transaction, so
-- no writer can forget to. Money is bigint minor units or numeric, quantities bigint or numeric; nothing is a float.

CREATE TABLE projects (
    id          text PRIMARY KEY,
    name        text NOT NULL CHECK (name <> '' AND length(name) <= 200),
    kind        text NOT NULL CHECK (kind IN ('saas', 'store')),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX projects_name ON projects (name);

CREATE TABLE accounts (
    id          text PRIMARY KEY,
    email       text NOT NULL CHECK (email = lower(email)),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX accounts_email ON accounts (email);

CREATE TABLE members (
    project_id  text NOT NULL REFERENCES projects ON DELETE CASCADE,
    account_id  text NOT NULL REFERENCES accounts ON DELETE CASCADE,
    role        text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, account_id)
);
CREATE INDEX members_account ON members (account_id);

CREATE TABLE tiers (
    id                   text PRIMARY KEY,
    project_id           text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode                 text NOT NULL CHECK (mode IN ('live', 'test')),
    name                 text NOT NULL,
    title                text NOT NULL,
    price_minor          bigint NOT NULL DEFAULT 0 CHECK (price_minor >= 0),
    currency             text NOT NULL DEFAULT 'usd' CHECK (currency ~ '^[a-z]{3}$'),
    billing_interval     text NOT NULL DEFAULT 'month' CHECK (billing_interval IN ('month', 'year')),
    requests_per_minute  bigint CHECK (requests_per_minute > 0),
    spend_cap_minor      bigint CHECK (spend_cap_minor >= 0),
    trial_days           integer NOT NULL DEFAULT 0 CHECK (trial_days >= 0),
    features             jsonb NOT NULL DEFAULT '{}',
    is_default           boolean NOT NULL DEFAULT false,
    is_popular           boolean NOT NULL DEFAULT false,
    created_at           timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX tiers_name ON tiers (project_id, mode, name);
CREATE UNIQUE INDEX tiers_default ON tiers (project_id, mode) WHERE is_default;

CREATE TABLE tier_quotas (
    tier_id             text NOT NULL REFERENCES tiers ON DELETE CASCADE,
    meter               text NOT NULL CHECK (meter <> '' AND length(meter) <= 64),
    quota               bigint CHECK (quota >= 0),          -- NULL: unlimited
    is_hard             boolean NOT NULL DEFAULT true,      -- false: goes on past the quota, at the overage price
    overage_unit_price  numeric(20, 10) CHECK (overage_unit_price >= 0),  -- minor units per unit
    PRIMARY KEY (tier_id, meter)
);

CREATE TABLE customers (
    id           text PRIMARY KEY,
    project_id   text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode         text NOT NULL CHECK (mode IN ('live', 'test')),
    external_id  text CHECK (external_id <> '' AND length(external_id) <= 200),
    name         text,
    email        text,
    origin       text NOT NULL DEFAULT 'declared' CHECK (origin IN ('declared', 'seen')),  -- seen: first met at a gateway
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX customers_external ON customers (project_id, mode, external_id);
CREATE UNIQUE INDEX customers_email ON customers (project_id, mode, lower(email));
CREATE INDEX customers_newest ON customers (project_id, mode, id);

CREATE TABLE subscriptions (
    id             text PRIMARY KEY,
    project_id     text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode           text NOT NULL CHECK (mode IN ('live', 'test')),
    customer_id    text NOT NULL REFERENCES customers ON DELETE CASCADE,
    tier_id        text NOT NULL REFERENCES tiers,
    status         text NOT NULL CHECK (status IN ('trialing', 'active', 'past_due', 'canceled', 'unpaid')),
    anchor_at      timestamptz NOT NULL,                    -- quota and billing periods follow this, forever
    trial_ends_at  timestamptz,
    canceled_at    timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX subscriptions_current ON subscriptions (customer_id) WHERE status <> 'canceled';
CREATE INDEX subscriptions_project ON subscriptions (project_id, mode, id);
CREATE INDEX subscriptions_tier ON subscriptions (tier_id);

CREATE TABLE keys (
    id                   text PRIMARY KEY,
    project_id           text NOT NULL REFERENCES projects ON DELETE CASCADE,
    mode                 text NOT NULL CHECK (mode IN ('live', 'test')),
    kind                 text NOT NULL CHECK (kind IN ('sk', 'pk', 'ck')),
    name                 text NOT NULL,
    hash                 bytea NOT NULL CHECK (length(hash) = 32),
    prefix               text NOT NULL CHECK (length(prefix) = 12),
    customer_id          text REFERENCES customers ON DELETE CASCADE,
    scopes               text[] NOT NULL DEFAULT '{}',      -- empty: all
    requests_per_minute  bigint CHECK (requests_per_minute > 0),
    allowed_origins      text[] NOT NULL DEFAULT '{}',      -- empty: any
    allowed_ips          cidr[] NOT NULL DEFAULT '{}',      -- empty: any
    expires_at           timestamptz,
    revoked_at           timestamptz,
    rotated_to           text REFERENCES keys,
    last_used_at         timestamptz,
    created_at           timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'ck') = (customer_id IS NOT NULL))
);
CREATE UNIQUE INDEX keys_hash ON keys (hash);
CREATE INDEX keys_project ON keys (project_id, mode, id);
CREATE INDEX keys_customer ON keys (customer_id);

CREATE TABLE upstreams (
    id          text PRIMARY KEY,
    project_id  text NOT NULL REFERENCES projects ON DELETE CASCADE,
    name        text NOT NULL,
    spec        jsonb NOT NULL,                             -- ledger.specs.UpstreamSpec
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX upstreams_name ON upstreams (project_id, name);

CREATE TABLE routes (
    id           text PRIMARY KEY,
    project_id   text NOT NULL REFERENCES projects ON DELETE CASCADE,
    name         text NOT NULL,
    upstream_id  text NOT NULL REFERENCES upstreams,
    host         text,                                      -- NULL: any
    path         text NOT NULL,                             -- /exact or /prefix/*
    methods      text[] NOT NULL DEFAULT '{}',              -- empty: any; sorted
    spec         jsonb NOT NULL,                            -- ledger.specs.RouteSpec
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX routes_name ON routes (project_id, name);
CREATE UNIQUE INDEX routes_match ON routes (coalesce(host, ''), path, methods);
CREATE INDEX routes_upstream ON routes (upstream_id);

-- What gateways must forget. Revisions are handed out in commit order (the lock), so a reader that has seen revision n
-- has seen all before it; `changes` is trimmed by the worker, a reader further behind reloads everything.
CREATE TABLE changes (
    revision    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    noun        text NOT NULL,                              -- key, customer, tier, route, upstream, project
    object_id   text NOT NULL,
    project_id  text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    noun     text := TG_ARGV[0];
    id_field text := TG_ARGV[1];
    row_data jsonb := CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
    project  text := CASE TG_TABLE_NAME
        WHEN 'projects' THEN row_data ->> 'id'
        WHEN 'tier_quotas' THEN (SELECT t.project_id FROM tiers t WHERE t.id = row_data ->> 'tier_id')
        ELSE row_data ->> 'project_id'
    END;
BEGIN
    IF project IS NULL THEN
        RETURN NULL;  -- quotas that go with their tier: the tier's own deletion says it
    END IF;
    IF noun = 'customer' AND TG_OP = 'INSERT' AND row_data ->> 'origin' = 'seen' THEN
        RETURN NULL;  -- the gateways that saw this customer already treat it as existing
    END IF;
    IF noun = 'key' AND TG_OP = 'UPDATE' AND to_jsonb(OLD) - 'last_used_at' = row_data - 'last_used_at' THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(7240318801);
    INSERT INTO changes (noun, object_id, project_id) VALUES (noun, row_data ->> id_field, project);
    PERFORM pg_notify('tollgate_changes', '');
    RETURN NULL;
END $$;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON projects
    FOR EACH ROW EXECUTE FUNCTION note_change('project', 'id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON tiers
    FOR EACH ROW EXECUTE FUNCTION note_change('tier', 'id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON tier_quotas
    FOR EACH ROW EXECUTE FUNCTION note_change('tier', 'tier_id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON customers
    FOR EACH ROW EXECUTE FUNCTION note_change('customer', 'id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION note_change('customer', 'customer_id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON keys
    FOR EACH ROW EXECUTE FUNCTION note_change('key', 'id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON upstreams
    FOR EACH ROW EXECUTE FUNCTION note_change('upstream', 'id');
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON routes
    FOR EACH ROW EXECUTE FUNCTION note_change('route', 'id');

-- Usage. project_id leads every index, so the tables distribute by it (Citus) unchanged. No foreign keys: facts outlive
-- what they are about.
CREATE TABLE usage_events (
    project_id   text NOT NULL,
    at           timestamptz NOT NULL,                      -- admitted
    id           uuid NOT NULL,
    mode         text NOT NULL,
    customer_id  text,
    key_id       text,
    route_id     text,
    method       text NOT NULL,
    status       smallint NOT NULL,
    outcome      text NOT NULL,
    meters       jsonb NOT NULL,                            -- {"requests": 1, "bytes_out": 1024}
    duration_us  bigint NOT NULL,
    upstream_us  bigint NOT NULL,
    stored_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, at, id)
) PARTITION BY RANGE (at);
CREATE INDEX usage_events_customer ON usage_events (project_id, customer_id, at DESC);

-- Two events that share a caller's idempotency key are one, however far apart they arrive.
CREATE TABLE usage_idempotency (
    project_id  text NOT NULL,
    mode        text NOT NULL,
    owner       text NOT NULL,                              -- customer id, or '' where there is none
    idem        text NOT NULL,
    event_id    uuid NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (project_id, mode, owner, idem)
);

CREATE TABLE usage_hourly (
    project_id   text NOT NULL,
    mode         text NOT NULL,
    hour         timestamptz NOT NULL,
    customer_id  text NOT NULL DEFAULT '',
    key_id       text NOT NULL DEFAULT '',
    route_id     text NOT NULL DEFAULT '',
    meter        text NOT NULL,
    quantity     numeric(38, 0) NOT NULL,
    events       bigint NOT NULL,
    PRIMARY KEY (project_id, mode, hour, customer_id, key_id, route_id, meter)
);

CREATE TABLE dead_letters (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream    text NOT NULL,
    entry_id  text NOT NULL,
    payload   bytea NOT NULL,
    reason    text NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (stream, entry_id)
);

-- What must still be told to the outside (Stripe, mail, webhooks), written in the transaction of its cause.
CREATE TABLE outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id    text NOT NULL,
    topic         text NOT NULL,
    dedup_key     text NOT NULL,                            -- the same fact is never queued twice
    payload       jsonb NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    available_at  timestamptz NOT NULL DEFAULT now(),
    delivered_at  timestamptz,
    last_error    text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (topic, dedup_key)
);
CREATE INDEX outbox_due ON outbox (available_at) WHERE delivered_at IS NULL;

CREATE TABLE audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    project_id  text NOT NULL,
    actor       text NOT NULL,                              -- key:…, account:…, cli
    action      text NOT NULL,                              -- created, updated, deleted, revoked, rotated
    noun        text NOT NULL,
    object_id   text NOT NULL,
    before      jsonb,
    after       jsonb
);
CREATE INDEX audit_project ON audit (project_id, id);

INSERT INTO projects (id, name, kind) VALUES ('prj_platform', 'Platform', 'saas');
