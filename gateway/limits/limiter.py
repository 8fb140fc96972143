"""Admission and settlement over the Redis connection.

`ask` sends one admission; the exchange is resumed with the script's reply (a list of integers), or with None when Redis is
away, too slow or refuses. Whatever was admitted is settled exactly once with `settle`, or given back with
`give_back` where the request was never served; both only queue, and the queue leaves in batches.

Unknown outcomes: an admission whose reply was lost or came too late may hold quota for a request that was refused; it is
given back. A settlement whose reply was lost is sent again; the script and the ledger make that harmless. The queue's
bound is `max_unsettled`; past it `is_full` says so and new requests are refused, nothing is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hiredis

from gateway.limits.decide import ADMITTED
from gateway.limits.plan import ADMIT, SETTLE, bulk, script_sha

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.limits.plan import Plan
    from gateway.store.redis import RedisPipe

_log = logging.getLogger("gateway.limiter")

SCRIPTS: Final = (ADMIT, SETTLE)
_SETTLE_CALL: Final = b"$7\r\nEVALSHA\r\n" + bulk(script_sha(SETTLE))
_LINGER_S: Final = 0.002
_BATCH: Final = 64
_MOST_FLYING: Final = 16 * _BATCH
"""Settlements under way at once, some 5 ms of Redis: after an outage they must not hold up admissions."""
_RETRY_S: Final = 0.25


class _Settlement(NamedTuple):
    """One entry of the settle script's call, as RESP: its keys and its arguments, and how many there are of each."""

    keys: bytes
    key_count: int
    arguments: bytes
    argument_count: int


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
        ex.limiter = self
        ex.admitting = True
        redis.send(_admit_command(ex, plan), ex)
        return True

    def refused(self, ex: Exchange, reply: Any) -> None:
        """The admission got no verdict: Redis answered with an error, or the connection broke."""
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT") and ex.admitting:
                self.redis.reload_scripts()
                self.redis.send(_admit_command(ex, ex.plan), ex)
                return
            self.redis.errors += 1
            _log.error("redis refused an admission: %s", reply)
        else:
            self.give_back(ex)
        ex.on_timeout()

    def came_late(self, ex: Exchange, reply: list[int]) -> None:
        """The verdict on a request that is no longer waiting for it."""
        if reply[0] == ADMITTED:
            self.give_back(ex)

    # -- settlement

    def settle(self, ex: Exchange, event: bytes, *, is_charged: bool, only_if_held: bool = False) -> None:
        """Put the usage event on the stream and the reservation to rest; uncharged gives the held quota back."""
        plan = ex.plan
        if is_charged or not plan.quotas:
            corrections = b"$2\r\n-1\r\n" if only_if_held else b"$1\r\n0\r\n"
            arguments = b"$32\r\n%b\r\n$%d\r\n%b\r\n%b" % (ex.id, len(event), event, corrections)
            settlement = _Settlement(plan.settle_keys, 2, arguments, 3)
        else:
            count = len(plan.quotas)
            arguments = b"".join(
                (bulk(ex.id), bulk(event), bulk(b"%d" % count), *(bulk(b"%d" % -q.quantity) for q in plan.quotas))
            )
            keys = plan.settle_keys + b"".join(bulk(q.key.encode()) for q in plan.quotas)
            settlement = _Settlement(keys, 2 + count, arguments, 3 + count)
        queue = self._queue
        queue.append(settlement)
        if len(queue) >= _BATCH and self.redis.available:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_LINGER_S, self._timer_flush)

    def give_back(self, ex: Exchange) -> None:
        """Undo an admission that nothing came of: no event.

        A count with an idempotency key is not undone: whoever tries again is told that it was made, so it must stand.
        """
        event = ex.plan.late_event
        self.settle(ex, event, is_charged=bool(event), only_if_held=bool(event))

    def _timer_flush(self) -> None:
        self._timer = None
        if self.redis.available:
            self.flush()
        elif self._queue:
            self._timer = self._loop.call_later(_RETRY_S, self._timer_flush)

    def flush(self) -> None:
        """Send what is queued, as far as there is not too much under way."""
        while self._queue and self._flying < _MOST_FLYING:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            self._flying += len(batch)
            self.redis.send(_settle_command(batch), _Batch(self, batch))

    def batch_done(self, batch: list[_Settlement], reply: Any) -> None:
        """A batch was answered; if not with yes, it is sent again."""
        self._flying -= len(batch)
        if type(reply) is int:
            if self._queue and self._timer is None:
                self._timer = self._loop.call_later(_LINGER_S, self._timer_flush)
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
                self.flush()
            await asyncio.sleep(0.005)
        return self.unsettled


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


def _admit_command(ex: Exchange, plan: Plan) -> bytes:
    hold = b'{"id":"%b","at":%d,%b' % (ex.id, ex.at_ms, plan.hold)
    return b"%b$32\r\n%b\r\n$%d\r\n%b\r\n%b" % (plan.admit_head, ex.id, len(hold), hold, plan.admit_tail)


def _settle_command(batch: list[_Settlement]) -> bytes:
    keys = sum([s.key_count for s in batch])
    arguments = sum([s.argument_count for s in batch])
    return b"*%d\r\n%b%b%b%b" % (
        3 + keys + arguments,
        _SETTLE_CALL,
        bulk(b"%d" % keys),
        b"".join([s.keys for s in batch]),
        b"".join([s.arguments for s in batch]),
    )
