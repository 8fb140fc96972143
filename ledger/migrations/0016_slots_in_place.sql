-- Whether a slot has something to be told, in a column of its own: an index whose predicate names `counted` made every
-- addition to a slot touch all indexes of the table (no heap-only update), and them grow.
ALTER TABLE billing_slots ADD COLUMN is_pending boolean GENERATED ALWAYS AS (counted <> sealed) STORED;
DROP INDEX billing_slots_pending;
CREATE INDEX billing_slots_pending ON billing_slots (pending_since) WHERE is_pending;
