-- Where customers of a tier get more; refusals for what is used up tell it.
ALTER TABLE tiers ADD COLUMN upgrade_url text;
