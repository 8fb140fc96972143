"""What the sandbox remembers, in a schema of its own (`sandbox`) that its own role owns: results, and instant endpoints.

Results are written in the background, batched, shortly after the reply; until then they are answered from memory. Bound:
2,000 unwritten ones; beyond it, or while PostgreSQL is away for long, the oldest are dropped, counted and logged: a result
is a convenience, the usage it cost is the gateway's to record. An Idempotency-Key is written before its run starts.
"""
