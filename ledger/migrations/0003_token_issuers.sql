-- Who signs the tokens (JWT) that routes take beside keys: identity providers, known by where their public keys are.
--
-- Only public facts are stored; the keys themselves are fetched and held by gateways.
CREATE TABLE issuers (
    id          text PRIMARY KEY,
    project_id  text NOT NULL REFERENCES projects ON DELETE CASCADE,
    name        text NOT NULL,
    issuer      text NOT NULL,                              -- `iss` of its tokens
    spec        jsonb NOT NULL,                             -- ledger.specs.IssuerSpec
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX issuers_name ON issuers (project_id, name);
CREATE UNIQUE INDEX issuers_issuer ON issuers (project_id, issuer);

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON issuers
    FOR EACH ROW EXECUTE FUNCTION note_change('issuer', 'id');
