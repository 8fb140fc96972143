"""How many gateway processes there are: what the policy `share` divides by.

Every process enters itself into one sorted set once a second and counts who did in the last 15 s. It remembers the number
while Redis is away; a process that never heard one takes no share at all. Clocks of gateways may be seconds apart.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from gateway.store.redis import encode
from ledger.names import GATEWAYS

if TYPE_CHECKING:
    from gateway.limits.limiter import Limiter
    from gateway.store.redis import RedisPipe

_ALIVE_S: Final = 15


class Census:
    """One process's entry, and the number of all; keeps `limiter.processes`."""

    __slots__ = ("_limiter", "_name")

    def __init__(self, limiter: Limiter, name: str) -> None:
        self._limiter = limiter
        self._name = name

    def take(self, redis: RedisPipe) -> None:
        """Enter this process and count; the reply comes later."""
        now = int(time.time())
        redis.send(encode(("ZADD", GATEWAYS, now, self._name)), _Ignored)
        redis.send(encode(("ZREMRANGEBYSCORE", GATEWAYS, "-inf", now - _ALIVE_S)), _Ignored)
        redis.send(encode(("ZCARD", GATEWAYS)), self)

    def on_reply(self, reply: Any) -> None:
        if type(reply) is int:
            self._limiter.processes = max(1, reply)

    def on_timeout(self) -> None:
        pass


class _Nobody:
    def on_reply(self, reply: Any) -> None:
        pass

    def on_timeout(self) -> None:
        pass


_Ignored: Final = _Nobody()
