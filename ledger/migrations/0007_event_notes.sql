-- What else is known of an event: {"estimated": ["tokens"]} names meters whose quantity no answer told.
ALTER TABLE usage_events ADD COLUMN notes jsonb;
