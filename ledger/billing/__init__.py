"""From usage to money: what Stripe must be told of it, told exactly once, and provably all of it.

Nouns: a *billed meter* is one whose usage is told to Stripe, under an event name, from a moment on (billed). A *slot* is
one customer, billed meter and hour, cut where a subscription's period begins inside the hour; ingest adds to it in the
transaction that stores the events. An *entry* is a part of a slot's amount, *sealed* (seal) once the slot is over: its
amount and identifier never change, and what arrives later is sealed as a further entry. Entries are *delivered*
(deliver) as Stripe meter events; all that is known about talking to Stripe is behind one `door`.

Always true, per slot: `counted` = the sum of its events, corrections included; `sealed` = the sum of the quantities of
its entries that stand. Per customer, meter and period: the values told to Stripe = the quantities sealed, less credits
that have not found usage to be netted against (a correction may be larger than what is still to be told). ledger.reconcile
checks all of it.

How it fails: Stripe away or slow delays entries, never loses or doubles them; an entry Stripe refuses for good is dead,
with the reason, and holds up nobody but nothing else either; one older than 35 days cannot be told any more and is dead.
"""
