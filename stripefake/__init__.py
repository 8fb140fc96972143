"""A Stripe that runs on your machine: stateful, strict, and able to fail in every way the real one does.

The real `stripe` library talks to it through `base_addresses`. It is for tests, Tollgate's own and those of its users
(`tollgate stripe-fake`, docs/stripe-fake.md); it moves no money and is no stand-in for a final test against a sandbox.

Nouns: a *half* is one account in one mode (test or live), which share nothing (world). An *operation* is a method, a
path, the parameters the library's own types allow there (schema) and a function (operations). A *fault* is something
that goes wrong on purpose (faults). Time is a *clock* that can be moved (clock). What happens becomes events, which are
delivered to webhook endpoints signed, and if wanted shuffled, twice and late (webhooks). All of this is steered under
`/_fake/` (control).

It is strict where Stripe is: an unknown parameter, a misspelt enum value, a missing field or a wrong type is a 400, also
where the real one is lenient with old spellings. It imports nothing of the rest of Tollgate. State is in memory.
"""
