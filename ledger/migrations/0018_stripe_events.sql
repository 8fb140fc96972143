-- Events of Stripe's that were delivered to a webhook: stored once by id before they are acknowledged, handled afterwards.

CREATE TABLE stripe_events (
    event_id     text PRIMARY KEY,
    account      text NOT NULL DEFAULT '',                  -- a connected account; '' where none is named
    mode         text NOT NULL CHECK (mode IN ('live', 'test')),
    kind         text NOT NULL,
    payload      jsonb NOT NULL,                            -- as it came, its signature verified
    state        text NOT NULL CHECK (state IN ('received', 'handled', 'ignored', 'failed')),
    reason       text,                                      -- why it is ignored, failed, or not handled yet
    attempts     integer NOT NULL DEFAULT 0,
    available_at timestamptz NOT NULL DEFAULT now(),
    received_at  timestamptz NOT NULL DEFAULT now(),
    handled_at   timestamptz
);
CREATE INDEX stripe_events_due ON stripe_events (available_at) WHERE state = 'received';
CREATE INDEX stripe_events_newest ON stripe_events (received_at DESC);
