"""Accounts: people, how they sign in, and what they may do in which project.

Nouns: an *account* is an e-mail address that was proven once; a *link* (ledger.mail) proves it; a *session* is one browser
that is signed in, for 30 days; a *member* is an account with a role in a project; an *invitation* waits for the account
of an address; a *claim* makes its bearer the operator, owner of the platform's own project.

Tokens of links, sessions and claims have 256 random bits and are stored as SHA-256. Signing in takes the same steps for
every address, so neither the answer nor its time tells whether there is an account: there is one from the first
sign-in on. How it fails: Refused for people's mistakes, Limited for too many tries; asyncpg's errors are the store's.
"""
