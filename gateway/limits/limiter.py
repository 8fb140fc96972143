"""Admission and settlement over the Redis connection.

`ask` sends one admission; the exchange is resumed with the script's reply (a list of integers), or with UNAVAILABLE when
Redis is away, too slow or refuses. Whatever was admitted is settled exactly once with `settle`, or given back with
`give_back` where the request was never served; both only queue, and the queue leaves in batches.

Unknown outcomes: an admission whose reply was lost or came too late may hold quota for a request that was refused; it is
given back. A settlement whose reply was lost is sent again; the script and the ledger make that harmless. The queue's
bound is `max_unsettled`; past it `is_full` says so and new requests are refused, nothing is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hiredis

from gateway.limits.decide import ADMITTED
from gateway.limits.plan import ADMIT, SETTLE, bulk, script_sha
from gateway.store.redis import LOST, encode

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.limits.plan import Plan
    from gateway.store.redis import RedisPipe

_log = logging.getLogger("gateway.limiter")

SCRIPTS: Final = (ADMIT, SETTLE)
SETTLE_SHA: Final = script_sha(SETTLE)
_LINGER_S: Final = 0.002
_BATCH: Final = 64
_RETRY_S: Final = 0.25


class Answer(Enum):
    """Instead of a reply."""

    UNAVAILABLE = "unavailable"


UNAVAILABLE: Final = Answer.UNAVAILABLE


class _Settlement(NamedTuple):
    reservations: str
    stream: str
    member: bytes
    event: bytes
    corrections: tuple[tuple[str, int], ...]


class Limiter:
    """Asks and settles; one per gateway process. `backlogged` is set from outside while the usage streams are full."""

    def __init__(self, redis: RedisPipe, max_unsettled: int = 100_000) -> None:
        self.redis = redis
        self._max_unsettled = max_unsettled
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Settlement] = []
        self._flying = 0
        self._timer: asyncio.TimerHandle | None = None
        self.backlogged = False

    @property
    def unsettled(self) -> int:
        """Settlements not yet confirmed by Redis."""
        return len(self._queue) + self._flying

    @property
    def is_full(self) -> bool:
        return self.backlogged or len(self._queue) > self._max_unsettled

    # -- admission

    def ask(self, ex: Exchange, plan: Plan) -> bool:
        """Send the admission of `ex`; it will be resumed with the reply. False, and nothing sent, if Redis is away."""
        redis = self.redis
        if not redis.available:
            return False
        ex.plan = plan
        ex.hold = hold = b'{"id":"%b","at":%d,%b%b' % (ex.id, ex.at_ms, plan.identity, plan.hold_tail)
        ex.admitting = True
        redis.send(plan.admit_head + bulk(hold) + plan.admit_tail, _Admission(self, ex))
        return True

    def answered(self, ex: Exchange, reply: Any) -> None:
        """The admission's reply is here, or never will be."""
        if type(reply) is list:
            if ex.admitting:
                ex.admitting = False
                ex.resume(reply)
            elif reply[0] == ADMITTED:
                self.give_back(ex)
            return
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT") and ex.admitting:
            self.redis.reload_scripts()
            self.redis.send(ex.plan.admit_head + bulk(ex.hold) + ex.plan.admit_tail, _Admission(self, ex))
            return
        if isinstance(reply, hiredis.ReplyError):
            self.redis.errors += 1
            _log.error("redis refused an admission: %s", reply)
        else:
            self.give_back(ex)
        self.timed_out(ex)

    def timed_out(self, ex: Exchange) -> None:
        """No reply in time; it may still come."""
        if ex.admitting:
            ex.admitting = False
            ex.resume(UNAVAILABLE)

    # -- settlement

    def settle(self, ex: Exchange, event: bytes, *, is_charged: bool) -> None:
        """Put the usage event on the stream and the reservation to rest; uncharged gives the held quota back."""
        plan = ex.plan
        corrections = () if is_charged else tuple((q.key, -q.quantity) for q in plan.quotas)
        self._add(_Settlement(plan.reservations, plan.stream, ex.hold, event, corrections))

    def give_back(self, ex: Exchange) -> None:
        """Undo an admission that nothing came of: no event."""
        self.settle(ex, b"", is_charged=False)

    def _add(self, settlement: _Settlement) -> None:
        self._queue.append(settlement)
        if len(self._queue) >= _BATCH and self.redis.available:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_LINGER_S, self._timer_flush)

    def _timer_flush(self) -> None:
        self._timer = None
        if self.redis.available:
            self._flush()
        elif self._queue:
            self._timer = self._loop.call_later(_RETRY_S, self._timer_flush)

    def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            self._flying += len(batch)
            self.redis.send(_settle_command(batch), _Batch(self, batch))

    def batch_done(self, batch: list[_Settlement], reply: Any) -> None:
        """A batch was answered; if not with yes, it is sent again."""
        self._flying -= len(batch)
        if type(reply) is int:
            return
        if isinstance(reply, hiredis.ReplyError):
            self.redis.errors += 1
            if str(reply).startswith("NOSCRIPT"):
                self.redis.reload_scripts()
            else:
                _log.error("redis refused settlements, which will be repeated: %s", reply)
        self._queue[:0] = batch
        if self._timer is None:
            self._timer = self._loop.call_later(_RETRY_S, self._timer_flush)

    async def drain(self, deadline_s: float) -> int:
        """Wait until everything is settled, at most so long; returns how many settlements are left."""
        end = self._loop.time() + deadline_s
        while self.unsettled and self._loop.time() < end:
            if self.redis.available:
                self._flush()
            await asyncio.sleep(0.005)
        return self.unsettled


class _Admission:
    """Waits for one admission's reply."""

    __slots__ = ("_ex", "_limiter")

    def __init__(self, limiter: Limiter, ex: Exchange) -> None:
        self._limiter = limiter
        self._ex = ex

    def on_reply(self, reply: Any) -> None:
        self._limiter.answered(self._ex, reply)

    def on_timeout(self) -> None:
        self._limiter.timed_out(self._ex)


class _Batch:
    """Waits for one settlement batch's reply."""

    __slots__ = ("_batch", "_limiter")

    def __init__(self, limiter: Limiter, batch: list[_Settlement]) -> None:
        self._limiter = limiter
        self._batch = batch

    def on_reply(self, reply: Any) -> None:
        self._limiter.batch_done(self._batch, reply)

    def on_timeout(self) -> None:
        pass  # its reply, or LOST, still comes


def _settle_command(batch: list[_Settlement]) -> bytes:
    keys: list[str] = []
    values: list[Any] = []
    for entry in batch:
        keys += (entry.reservations, entry.stream)
        values += (entry.member, entry.event, len(entry.corrections))
        for key, delta in entry.corrections:
            keys.append(key)
            values.append(delta)
    return encode(("EVALSHA", SETTLE_SHA, len(keys), *keys, *values))


__all__ = ["LOST", "SCRIPTS", "UNAVAILABLE", "Limiter"]
