"""What a gateway does when Redis has lost its counters: tell it again what only this process knows.

Once a second it asks whether the counters are complete and whether a healing pass (ledger/heal.py) wants reports. To one
it has not reported to yet it does, in this order on the one connection: what it holds open (through the spool, as if it
had been admitted without Redis; what Redis still holds is not held twice), what it sent in the last seconds (the ledger
stores an event once), and, when the spool is empty, its name.

A process that missed a pass altogether, cut off from Redis, tells what it holds open when it is back: the epoch it finds
is one it did not report to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from gateway.store.redis import encode
from ledger import names

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.limits.limiter import Limiter

_log = logging.getLogger("gateway.report")


def sign_of_life(name: str) -> tuple[str, ...]:
    """The command that says for 15 seconds that this process lives; its reservations are swept once it is gone."""
    return ("SET", names.gateway_alive(name), "alive", "EX", "15")


class Reporter:
    """One process's part in healing. `in_flight` gives the requests that are not over."""

    __slots__ = ("_alive", "_epochs", "_in_flight", "_limiter", "_name", "_seen", "_token")

    def __init__(self, limiter: Limiter, name: str, shards: int, in_flight: Callable[[], Iterable[Exchange]]) -> None:
        self._limiter = limiter
        self._name = name
        self._in_flight = in_flight
        self._alive = encode(sign_of_life(name))
        epochs = [names.epoch(shard) for shard in range(shards)]
        self._epochs = encode(("MGET", names.HEAL, *epochs))
        self._token = b""
        limiter.redis.on_lost = self._lost
        limiter.knows_counters = False
        self._seen: frozenset[bytes] | None = None

    def look(self) -> None:
        """Ask; the reply comes later."""
        if self._limiter.redis.available:
            self._limiter.redis.send(self._epochs, self)

    def on_reply(self, reply: Any) -> None:
        if type(reply) is not list:
            return
        token, *epochs = reply
        limiter = self._limiter
        limiter.knows_counters = None not in epochs
        if token is not None and token != self._token:
            self._token = token
            limiter.redis.send(self._alive, _Ignored)  # it may be lost too, and who seems dead is swept
            self._hold_again()
            limiter.settlements.repeat_tail()
            limiter.settlements.when_told(self._say)
            return
        made_by = frozenset(epoch for epoch in epochs if epoch is not None)
        if self._seen is not None and made_by - self._seen - {self._token}:
            self._hold_again()
        self._seen = made_by

    def on_timeout(self) -> None:
        pass

    def _lost(self) -> None:
        """The next connection may find another Redis, whose counters are there and too low: ask before believing them."""
        self._limiter.knows_counters = False

    def _hold_again(self) -> None:
        """Also what was told so before: since then Redis may have had it, and lost it."""
        held = 0
        for ex in self._in_flight():
            plan = ex.plan
            if ex.parts is not None and ex.parts.is_divided:
                held += ex.parts.hold_again()
            elif plan is not None and not ex.admitting and ex.limiter is self._limiter:
                held += self._limiter.hold(ex, plan)
        if held:
            _log.warning("told Redis again of %d requests that are under way", held)

    def _say(self) -> None:
        token = self._token.decode()
        self._limiter.redis.send(encode(("SADD", names.reports(token), self._name)), _Ignored)
        self._limiter.redis.send(encode(("EXPIRE", names.reports(token), 60)), _Ignored)


class _Nobody:
    def on_reply(self, reply: Any) -> None:
        pass

    def on_timeout(self) -> None:
        pass


_Ignored: Final = _Nobody()
