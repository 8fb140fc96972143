-- How many requests of one customer may be under way at once, in each gateway process.
ALTER TABLE tiers ADD COLUMN concurrent_requests bigint CHECK (concurrent_requests > 0);
