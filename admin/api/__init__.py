"""The JSON API under /api: what a project's secret key may do over HTTP.

Nouns: an *endpoint* (call) is a method, a path and a small handler; a *call* is one authenticated request with its
connection and its body; a *reply* is what goes back. The life of a request is one function (serve): authenticate, read,
borrow a connection, answer once, reply. There is one file per noun with its endpoints; resources has what they share.

A caller is a key: its project and mode scope everything, so another project's objects are not found rather than
forbidden. How it fails: problem+json of ledger.problems, made in one place (answers). Postgres away is 503, never 401.
"""
