"""The data plane: who is it, may they, forward it, count what it cost.

Nouns: a *client connection* (listener) carries *exchanges*, one after the other; an exchange is one request with its
answer, and its life is one coroutine (pipeline) driven by hand from the protocols' callbacks. A *plan* (limits) is what
admission and settlement need to know about one (key, customer, route); it is made once and kept. An *upstream connection*
(proxy) is pooled. The *store* holds the snapshot of keys, tiers and routes, and the one pipelined connection to Redis.

Failure: Redis away, the route's declared policy; Postgres away, known keys go on and unknown ones get 503; an upstream
away, 502/504; a client away, settled with what passed. Nothing is forwarded that is not first reserved.
"""
