"""What a gateway knows: the snapshot of keys, customers, tiers and routes (from Postgres), and the way to Redis."""
