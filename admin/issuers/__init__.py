"""Token issuers: the identity providers whose tokens (JWT) routes take beside keys.

An issuer's users belong to one half of a project, so it belongs to one mode, for good. Only public facts are stored: its
`iss`, where its public keys are, how its claims are read.
"""
