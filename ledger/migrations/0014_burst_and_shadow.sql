-- How many requests more than its rate a tier allows for a while, and whether it only reports what it would refuse.
ALTER TABLE tiers ADD COLUMN burst bigint CHECK (burst > 0);
ALTER TABLE tiers ADD COLUMN is_shadow boolean NOT NULL DEFAULT false;
