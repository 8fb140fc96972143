-- People: how they sign in, where they are signed in, what they were invited to, and the mail that is sent to them.
--
-- No token is stored: of links, sessions and claims there is the SHA-256 alone. Gateways hold none of this, so no change
-- triggers. Rows that are over are deleted by the worker.

ALTER TABLE accounts ADD COLUMN last_signed_in_at timestamptz;

-- Made by the worker in the moment the mail is sent, so that the text of a link is never at rest anywhere of ours.
CREATE TABLE magic_links (
    hash         bytea PRIMARY KEY CHECK (length(hash) = 32),
    email        text NOT NULL CHECK (email = lower(email)),
    is_reusable  boolean NOT NULL DEFAULT false,            -- the one that `tollgate dev` prints
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);
CREATE INDEX magic_links_email ON magic_links (email);
CREATE INDEX magic_links_over ON magic_links (expires_at);

-- What is limited per address of the network and per e-mail address: links asked for, and tokens that were none.
CREATE TABLE sign_in_attempts (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind     text NOT NULL CHECK (kind IN ('link', 'token')),
    address  text NOT NULL,
    email    text,
    at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sign_in_attempts_address ON sign_in_attempts (kind, address, at);
CREATE INDEX sign_in_attempts_email ON sign_in_attempts (kind, email, at);
CREATE INDEX sign_in_attempts_over ON sign_in_attempts (at);

CREATE TABLE sessions (
    id            text PRIMARY KEY,
    hash          bytea NOT NULL CHECK (length(hash) = 32),
    account_id    text NOT NULL REFERENCES accounts ON DELETE CASCADE,
    address       text NOT NULL,
    user_agent    text NOT NULL,
    project_id    text REFERENCES projects ON DELETE SET NULL,  -- what its pages show
    mode          text NOT NULL DEFAULT 'test' CHECK (mode IN ('live', 'test')),
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL
);
CREATE UNIQUE INDEX sessions_hash ON sessions (hash);
CREATE INDEX sessions_account ON sessions (account_id, id);
CREATE INDEX sessions_over ON sessions (expires_at);

-- Whoever signs in with the address may accept: the address is proven by signing in, so there is no token.
CREATE TABLE invitations (
    id          text PRIMARY KEY,
    project_id  text NOT NULL REFERENCES projects ON DELETE CASCADE,
    email       text NOT NULL CHECK (email = lower(email)),
    role        text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    invited_by  text NOT NULL,                              -- as in audit.actor
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);
CREATE UNIQUE INDEX invitations_once ON invitations (project_id, email);
CREATE INDEX invitations_email ON invitations (email);

-- Printed when a control plane starts and nobody owns the platform; whoever shows one becomes its owner.
CREATE TABLE operator_claims (
    hash        bytea PRIMARY KEY CHECK (length(hash) = 32),
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Mail as /dev/mail shows it. Written only where mail goes to the console.
CREATE TABLE dev_mails (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recipient   text NOT NULL,
    subject     text NOT NULL,
    body        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
