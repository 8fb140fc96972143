"""Outgoing webhooks: what happens in a project, told to addresses of its owner, as Standard Webhooks.

Nouns: an *endpoint* is an address with a secret and the types of events it wants; a *message* is one event as it is sent;
a *delivery* is one message for one endpoint. `emit` writes them in the transaction of their cause, `sign` makes the
signature, `post` brings them out, `public` sees to it that only public addresses are ever called.

In order per endpoint, at least once (`webhook-id` tells repetitions), with growing pauses over three days; then a message
is given up and the next one's turn. 410 turns the endpoint off. Bounds: 15 s for an answer, of which 4 KiB are read, no
redirect is followed; 10 endpoints at a time in a worker; what is done is forgotten after 30 days.
"""
