"""Admission over the Redis connection, and what each request's settlement is.

`ask` sends one admission; the exchange is resumed with the script's reply (a list of integers), or with None when Redis is
away, too slow or refuses. Whatever was admitted is settled exactly once with `settle`, or given back with `give_back` where
the request was never served; both hand a settlement to `settlements` (gateway.limits.settlements), which sees to it that
Redis is told. A request that its route's policy admits while Redis is away is written to the spool *before* it is forwarded
(`hold`), so that it is counted in the end even if this process is killed meanwhile.

Unknown outcomes: an admission whose reply was lost or came too late may hold quota for a request that was refused; it is
given back. Bounds: as many as requests in flight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import hiredis

from gateway.limits.calls import ADMIT, ADMIT_TO_PLACES, SETTLE
from gateway.limits.caps import is_within_share
from gateway.limits.decide import ADMITTED, UNKNOWN
from gateway.limits.renewal import RENEW, Corrections, Part, Renewal, Share, part_record, renew_command
from gateway.limits.settlements import Settlements, corrected, settle_command
from gateway.limits.share import Shares
from gateway.limits.spooled import REPLAY, hold_record

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.limits.plan import Plan, Quota
    from gateway.spool.disk import Spool
    from gateway.store.redis import RedisPipe

_log = logging.getLogger("gateway.limiter")

SCRIPTS: Final = (ADMIT, ADMIT_TO_PLACES, SETTLE, REPLAY, RENEW)
ONLY_IF_HELD: Final = b"$2\r\n-1\r\n"
"""Corrections of a settlement whose event counts only if the reservation was still held."""


class Limiter:
    """Asks and settles; one per gateway process."""

    def __init__(
        self,
        redis: RedisPipe,
        max_unsettled: int = 100_000,
        spool: Spool | None = None,
        *,
        loses_when_full: bool = False,
    ) -> None:
        self.redis = redis
        self.settlements = Settlements(redis, max_unsettled, spool, loses_when_full=loses_when_full)
        self.processes = 0
        """Gateway processes alive, as Redis last said; 0: it never did, so nobody knows what this one's share is."""
        self._shares = Shares()
        self.knows_counters = True
        """False while the counters in Redis may be wrong: being rebuilt, or not asked about on this connection yet."""
        self.admitted_alone = 0
        self.refused_full = 0
        """Requests refused because what they use could not be recorded."""

    @property
    def is_current(self) -> bool:
        """True if Redis can be asked, and its counters are complete."""
        return self.redis.available and not self.settlements.is_behind and self.knows_counters

    # -- admission

    def ask(self, ex: Exchange, plan: Plan) -> bool:
        """Send the admission of `ex`; it will be resumed with the reply. False, and nothing sent, if Redis is away.

        Neither is it asked before it was told of all that was admitted without it: its counters would say too little.
        """
        redis = self.redis
        if not redis.available or self.settlements.is_behind or not self.knows_counters:
            return False
        ex.plan = plan
        ex.limiter = self
        ex.admitting = True
        redis.send(plan.admit_command(ex.id, ex.at_ms), ex)
        return True

    def refused(self, ex: Exchange, reply: Any) -> None:
        """The admission got no verdict: Redis answered with an error, or the connection broke."""
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT") and ex.admitting:
                self.redis.reload_scripts()
                self.redis.send(ex.plan.admit_command(ex.id, ex.at_ms), ex)
                return
            self.redis.errors += 1
            _log.error("redis refused an admission: %s", reply)
            ex.on_timeout()
        else:
            ex.on_timeout()
            if not ex.is_local:
                self.give_back(ex)

    def came_late(self, ex: Exchange, reply: list[int]) -> None:
        """The verdict on a request that is no longer waiting for it; one admitted without it keeps what it was given."""
        if reply[0] == ADMITTED and not ex.is_local:
            self.give_back(ex)

    def hold(self, ex: Exchange, plan: Plan) -> bool:
        """Write down that `ex` is admitted without Redis. False: it cannot be, since nothing would count it."""
        if not self.settlements.hold(hold_record(plan, ex.id, ex.at_ms)):
            return False
        ex.plan = plan
        ex.limiter = self
        ex.is_local = True
        return True

    def take_share(self, ex: Exchange, plan: Plan) -> bool:
        """Take what a request needs from this process's share of its limits, or nothing."""
        if not self.processes or not is_within_share(ex, self.processes):
            return False
        return self._shares.take(plan, ex.at_ms, self.processes)

    # -- settlement

    def settle(
        self,
        ex: Exchange,
        event: bytes,
        *,
        is_charged: bool,
        actual: Sequence[int] | None = None,
        corrections: bytes = b"$1\r\n0\r\n",
    ) -> None:
        """Put the usage event on the stream and the reservation to rest; uncharged gives the held quota back.

        `actual` are the quantities of the plan's last quotas, whose estimates were held: what differs is corrected.
        """
        plan = ex.plan
        if is_charged and not actual and not plan.place_keys:
            arguments = b"$32\r\n%b\r\n$%d\r\n%b\r\n%b" % (ex.id, len(event), event, corrections)
            settlement = (plan.settle_keys, 2, arguments, 3)
        else:
            differences = [(q.key, -q.quantity) for q in plan.quotas]
            if is_charged:
                reserved = zip(plan.quotas[-len(actual) :], actual, strict=True) if actual else ()
                differences = [(q.key, quantity - q.quantity) for q, quantity in reserved if quantity != q.quantity]
            settlement = corrected(plan, ex.id, event, differences, plan.place_keys)
        if ex.is_local:
            self.settlements.follow(settlement)
            return
        self.settlements.add(settlement)
        if plan.place_keys and self.redis.available:
            self.settlements.flush()  # who asks for one thing after the other finds the place free

    # -- long requests, which are settled in parts

    def settle_part(self, part: Part, event: bytes, corrections: Corrections, *, is_spooled: bool) -> None:
        """Settle the last part. `is_spooled`: what it holds was told by way of the spool, so this follows there."""
        settlement = corrected(part.plan, part.id, event, corrections, part.places)
        if is_spooled:
            self.settlements.follow(settlement)
        else:
            self.settlements.add(settlement)

    def renew(
        self,
        ending: Part,
        event: bytes,
        corrections: Corrections,
        following: Part,
        shares: Sequence[Share],
        done: Callable[[list[int]], None],
    ) -> None:
        """Settle a part and reserve the next; `done` gets the reply of renew.lua, as soon as there is one."""

        def renewed(reply: list[int]) -> None:
            if reply[0] == UNKNOWN:
                self.knows_counters = False  # until somebody has looked again
            else:
                settled = corrected(ending.plan, ending.id, event, corrections, ending.places)
                self.settlements.remember(settle_command([settled]), 1)
            done(reply)

        command = renew_command(ending, event, corrections, following, shares)
        Renewal(self.redis, self.settlements.renewals, command, renewed)

    def hold_part(self, part: Part, quotas: Sequence[Quota], held: Sequence[int]) -> bool:
        """Tell a Redis that may have forgotten it what a part holds. False if that cannot be written down."""
        return self.settlements.hold(part_record(part, quotas, held))

    def give_back(self, ex: Exchange) -> None:
        """Undo an admission that nothing came of: no event.

        A count with an idempotency key is not undone: whoever tries again is told that it was made, so it must stand.
        """
        event = ex.plan.late_event
        if event:
            self.settle(ex, event, is_charged=True, corrections=ONLY_IF_HELD)
        else:
            self.settle(ex, event, is_charged=False)
