"""The control plane: who exists and what is declared. The only writer of the control tables.

Nouns: a *declaration* (a file of projects) is applied or exported (declare/); a *noun* (tiers/, customers/, issuers/,
upstreams/, routes/, projects/) is stored one object at a time; *keys* (keys/) are made, rotated and revoked. Each does
its work in plain functions over a connection to Postgres, which the command line and the JSON API (api/) share: one
lane, so both validate, refuse and audit alike. Everything a key may see or touch is inside its *scope*: one project,
one mode.

How it fails: `Refused` (what was asked conflicts with what exists), `StoreUnavailable` (Postgres cannot be asked; the
API answers 503 and the process goes on). Every change leaves an audit row in its own transaction, without secrets.
"""
