"""The real stack under load while its parts are killed, paused, cut off and emptied; then its books are compared.

stack     PostgreSQL, Redis with an append-only file, a gateway of two processes, a worker, an origin that counts
load      requests at a steady rate, and what became of each as its client saw it
faults    what is done to the stack, at a moment that the seed decides
books     what is left when all is quiet: origin = clients + orphans = ledger = rollups = counters; limits held
till      after all rounds: what a Stripe fake has seen of it = the ledger
chaos     rounds of these: `make chaos ROUNDS=100 SEED=1`
"""
