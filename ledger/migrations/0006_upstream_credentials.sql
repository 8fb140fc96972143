-- The secret that the gateway sends to an upstream, sealed (ledger.vault): never in the spec, which people may read.
ALTER TABLE upstreams ADD COLUMN secret bytea;
ALTER TABLE routes ADD COLUMN secret bytea;
