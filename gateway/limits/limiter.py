"""Admission and settlement over the Redis connection.

`ask` sends one admission; the exchange is resumed with the script's reply (a list of integers), or with None when Redis is
away, too slow or refuses. Whatever was admitted is settled exactly once with `settle`, or given back with
`give_back` where the request was never served; both only queue, and the queue leaves in batches.

What Redis does not take (away, slow, read-only, full) goes to the spool on disk (gateway.spool) and is replayed in order
as soon as Redis takes it. A request that its route's policy admits while Redis is away is written there *before* it is
forwarded (`hold`), so that it is counted in the end even if this process is killed meanwhile.

Unknown outcomes: an admission whose reply was lost or came too late may hold quota for a request that was refused; it is
given back. A settlement whose reply was lost is sent again; the script and the ledger make that harmless. Bounds: the
queue's is `max_unsettled`, the spool has its own; past either `is_full` says so and new requests are refused, nothing is
dropped (unless `loses_when_full`: then what a full spool cannot take is dropped and counted in `lost`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import hiredis

from gateway.limits.caps import is_within_share
from gateway.limits.decide import ADMITTED, UNKNOWN
from gateway.limits.plan import ADMIT, ADMIT_TO_PLACES, SETTLE, bulk, script_sha
from gateway.limits.renewal import RENEW, Corrections, Part, Renewal, Share, part_record, renew_command
from gateway.limits.share import Shares
from gateway.limits.spooled import REPLAY, Unreadable, command, hold_record, settle_record
from gateway.spool.disk import SpoolError

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.limits.plan import Plan, Quota
    from gateway.spool.disk import Spool
    from gateway.store.redis import RedisPipe

_log = logging.getLogger("gateway.limiter")

SCRIPTS: Final = (ADMIT, ADMIT_TO_PLACES, SETTLE, REPLAY, RENEW)
ONLY_IF_HELD: Final = b"$2\r\n-1\r\n"
"""Corrections of a settlement whose event counts only if the reservation was still held."""
_SETTLE_CALL: Final = b"$7\r\nEVALSHA\r\n" + bulk(script_sha(SETTLE))
_LINGER_S: Final = 0.002
_BATCH: Final = 64
_MOST_FLYING: Final = 16 * _BATCH
"""Settlements under way at once, some 5 ms of Redis: after an outage they must not hold up admissions."""
_RETRY_S: Final = 0.25
_TAIL_S: Final = 5.0
"""Longer than the stream takes to drain and than Redis takes to sync its file; beyond it, a lost Redis loses."""
_TAIL_MOST: Final = 50_000
"""Settlements in the tail, some 500 bytes each."""


_PASSING: Final = (
    *(
        "OOM",
        "READONLY",
        "LOADING",
        "MISCONF",
        "NOREPLICAS",
        "BUSY",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
    ),
    *("NOAUTH", "NOPERM", "NOSCRIPT", "UNKILLABLE"),
)
"""Errors that are about Redis, not about what it was told."""


_Settlement = tuple[bytes, int, bytes, int]
"""One entry of the settle script's call, as RESP: its keys, how many, its arguments, how many. A plain tuple: one is made
for each request."""


class Limiter:
    """Asks and settles; one per gateway process. `backlogged` is set from outside while the usage streams are full."""

    def __init__(
        self,
        redis: RedisPipe,
        max_unsettled: int = 100_000,
        spool: Spool | None = None,
        *,
        loses_when_full: bool = False,
    ) -> None:
        self.redis = redis
        self.spool = spool
        self._max_unsettled = max_unsettled
        self._loses_when_full = loses_when_full
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Settlement] = []
        self._unspooled: list[_Settlement] = []  # of requests that were held in the spool: they follow their hold there
        self._flying = 0
        self._renewals: set[Renewal] = set()
        self._is_replaying = False
        self._replay_limit = _BATCH
        self._timer: asyncio.TimerHandle | None = None
        self.backlogged = False
        self.processes = 0
        """Gateway processes alive, as Redis last said; 0: it never did, so nobody knows what this one's share is."""
        self._shares = Shares()
        self._is_behind = spool is not None and not spool.is_empty
        self._tail: deque[tuple[float, bytes, int]] = deque()
        self._tail_size = 0
        self._told: Callable[[], None] | None = None
        self.knows_counters = True
        """False while the counters in Redis may be wrong: being rebuilt, or not asked about on this connection yet."""
        self.admitted_alone = 0
        self.refused_full = 0
        """Requests refused because what they use could not be recorded."""
        self.lost = 0
        if spool is not None and not spool.is_empty:
            self._wake(_LINGER_S)

    @property
    def unsettled(self) -> int:
        """Settlements and holds not yet confirmed by Redis."""
        spooled = self.spool.entries if self.spool is not None else 0
        return len(self._queue) + len(self._unspooled) + self._flying + spooled + len(self._renewals)

    @property
    def is_current(self) -> bool:
        """True if Redis can be asked, and its counters are complete."""
        return self.redis.available and not self._is_behind and self.knows_counters

    @property
    def is_full(self) -> bool:
        if self.backlogged or len(self._queue) > self._max_unsettled:
            return True
        return self.spool is not None and self.spool.is_full and not self._loses_when_full

    # -- admission

    def ask(self, ex: Exchange, plan: Plan) -> bool:
        """Send the admission of `ex`; it will be resumed with the reply. False, and nothing sent, if Redis is away.

        Neither is it asked before it was told of all that was admitted without it: its counters would say too little.
        """
        redis = self.redis
        if not redis.available or self._is_behind or not self.knows_counters:
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
        if not self._hold(hold_record(plan, ex.id, ex.at_ms)):
            return False
        ex.plan = plan
        ex.limiter = self
        ex.is_local = True
        return True

    def _hold(self, record: bytes) -> bool:
        if self.spool is None or self.spool.is_full:
            return False
        try:
            self.spool.append((record,))
        except SpoolError:
            return False
        self._is_behind = True
        self._wake(_RETRY_S)
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
            settlement = _corrected(plan, ex.id, event, differences, plan.place_keys)
        if ex.is_local:
            self._unspooled.append(settlement)
            self._wake(_LINGER_S)
            return
        self._enqueue(settlement)
        if plan.place_keys and self.redis.available:
            self.flush()  # who asks for one thing after the other finds the place free

    # -- long requests, which are settled in parts

    def settle_part(self, part: Part, event: bytes, corrections: Corrections, *, is_spooled: bool) -> None:
        """Settle the last part. `is_spooled`: what it holds was told by way of the spool, so this follows there."""
        settlement = _corrected(part.plan, part.id, event, corrections, part.places)
        if is_spooled:
            self._unspooled.append(settlement)
            self._wake(_LINGER_S)
        else:
            self._enqueue(settlement)

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
                settled = _corrected(ending.plan, ending.id, event, corrections, ending.places)
                self._remember(_settle_command([settled]), 1)
            done(reply)

        command = renew_command(ending, event, corrections, following, shares)
        Renewal(self.redis, self._renewals, command, renewed)

    def hold_part(self, part: Part, quotas: Sequence[Quota], held: Sequence[int]) -> bool:
        """Tell a Redis that may have forgotten it what a part holds. False if that cannot be written down."""
        return self._hold(part_record(part, quotas, held))

    def _enqueue(self, settlement: _Settlement) -> None:
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
        if event:
            self.settle(ex, event, is_charged=True, corrections=ONLY_IF_HELD)
        else:
            self.settle(ex, event, is_charged=False)

    def _wake(self, in_s: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(in_s, self._timer_flush)

    def _timer_flush(self) -> None:
        self._timer = None
        if self._unspooled:
            self._unspooled = self._spill(self._unspooled)
        if self.redis.available:
            self.flush()
            self._replay()
        elif self._queue:
            self._queue = self._spill(self._queue)
        self._tell()
        if not self._flying and not self._is_replaying and self._has_work:
            self._wake(_RETRY_S)

    @property
    def _has_work(self) -> bool:
        return bool(self._queue or self._unspooled) or (self.spool is not None and not self.spool.is_empty)

    def _spill(self, settlements: list[_Settlement]) -> list[_Settlement]:
        """Put settlements on the spool; returns those it did not take."""
        spool = self.spool
        if spool is None:
            return settlements
        if self._loses_when_full and spool.is_full:
            self.lost += len(settlements)
            return []
        done = 0
        try:
            while done < len(settlements):
                batch = settlements[done : done + _BATCH]
                spool.append([settle_record(*settlement) for settlement in batch])
                done += len(batch)
        except SpoolError:  # the spool has logged it
            pass
        return settlements[done:]

    # -- what Redis may have lost

    def _remember(self, sent: bytes, size: int) -> None:
        """Keep what Redis has acknowledged for as long as it may not have it for good.

        As the command that was sent: one piece of memory for a batch. The entries of each request, kept for seconds, would
        push what the next requests need out of the processor's cache (measured: 0.7 µs a request).
        """
        tail, now = self._tail, self._loop.time()
        tail.append((now, sent, size))
        self._tail_size += size
        while tail[0][0] < now - _TAIL_S or self._tail_size > _TAIL_MOST:
            self._tail_size -= tail.popleft()[2]

    def repeat_tail(self) -> None:
        """Send again what was acknowledged in the last seconds, in order; what Redis has, or the ledger, changes nothing."""
        for _, sent, _ in self._tail:
            self.redis.send(sent, _Repeated())

    def when_told(self, say: Callable[[], None]) -> None:
        """Call `say` as soon as everything that was spooled or queued is on its way to Redis."""
        self._told = say
        if self.redis.available:
            self.flush()
        self._tell()
        self._wake(_LINGER_S)

    def _tell(self) -> None:
        told = self._told
        if told is not None and not self._queue and not self._unspooled and (self.spool is None or self.spool.is_empty):
            self._told = None
            told()

    # -- what was spooled

    def take_over(self) -> None:
        """Look for spools whose process has ended; called now and then."""
        if self.spool is not None and self.spool.adopt():
            self._is_behind = True
            self._wake(_LINGER_S)

    def _replay(self) -> None:
        """Send the oldest spooled records, one batch at a time so that they arrive in order."""
        spool = self.spool
        if spool is None or self._is_replaying or spool.is_empty:
            return
        entries = spool.peek(self._replay_limit)
        while entries:
            try:
                call = command(entries)
            except Unreadable as error:
                if len(entries) == 1:
                    _log.error("a spooled record cannot be read and is put aside: %s", error)
                    spool.put_aside()
                    self._is_behind = self._is_behind and not spool.is_empty
                    entries = spool.peek(_BATCH)
                else:
                    entries = entries[: len(entries) // 2]
            else:
                self._is_replaying = True
                self.redis.send(call, _Replay(self, call, len(entries)))
                return

    def replayed(self, call: bytes, count: int, reply: Any) -> None:
        """A batch of spooled records was answered; if not with a number, it is sent again."""
        self._is_replaying = False
        assert self.spool is not None
        if type(reply) is int:
            self._remember(call, count)
            self._replay_limit = min(_BATCH, self._replay_limit * 2)
            self.spool.confirm(count)
            if self.spool.is_empty:
                self._is_behind = False
                self._tell()
            elif self.redis.available:
                self._replay()
        elif isinstance(reply, hiredis.ReplyError):
            self.redis.errors += 1
            if str(reply).startswith("NOSCRIPT"):
                self.redis.reload_scripts()
            elif count > 1:
                self._replay_limit = 1  # one of them may be to blame
                _log.error("redis refused spooled records, which will be repeated: %s", reply)
            elif not any(word in str(reply) for word in _PASSING):
                _log.error("redis refuses a spooled record, which is put aside: %s", reply)
                self.spool.put_aside()
                self._is_behind = self._is_behind and not self.spool.is_empty
        if not self._is_replaying and self._has_work:
            self._wake(_RETRY_S)

    def flush(self) -> None:
        """Send what is queued, as far as there is not too much under way."""
        while self._queue and self._flying < _MOST_FLYING:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            self._flying += len(batch)
            command = _settle_command(batch)
            self.redis.send(command, _Batch(self, batch, command))

    def batch_done(self, batch: list[_Settlement], command: bytes, reply: Any) -> None:
        """A batch was answered; if not with yes, it is sent again."""
        self._flying -= len(batch)
        if type(reply) is int:
            self._remember(command, len(batch))
            if self._queue or self._unspooled:
                self._wake(_LINGER_S)
            elif self._told is not None:
                self._tell()
            return
        if isinstance(reply, hiredis.ReplyError):
            self.redis.errors += 1
            if str(reply).startswith("NOSCRIPT"):
                self.redis.reload_scripts()
                self._queue[:0] = batch
                self._wake(_LINGER_S)
                return
            _log.error("redis refused settlements, which will be repeated: %s", reply)
        self._queue[:0] = self._spill(batch)
        self._wake(_RETRY_S)

    async def drain(self, deadline_s: float) -> int:
        """Wait until everything is settled, at most so long; returns how many settlements are in memory only.

        What is in the spool is safe there: while Redis is away, nobody waits for it.
        """
        end = self._loop.time() + deadline_s
        while self.unsettled and self._loop.time() < end:
            self._unspooled = self._spill(self._unspooled)
            if self.redis.available:
                self.flush()
                self._replay()
            elif self.spool is not None and not self._flying:
                self._queue = self._spill(self._queue)
                if not self._queue and not self._unspooled and not self._renewals:
                    break
            await asyncio.sleep(0.005)
        return len(self._queue) + len(self._unspooled) + self._flying + len(self._renewals)


class _Repeated:
    """Waits for what was acknowledged once before."""

    __slots__ = ()

    def on_reply(self, reply: Any) -> None:
        pass

    def on_timeout(self) -> None:
        pass


class _Replay:
    """Waits for the reply to one batch of spooled records."""

    __slots__ = ("_call", "_count", "_limiter")

    def __init__(self, limiter: Limiter, call: bytes, count: int) -> None:
        self._limiter = limiter
        self._call = call
        self._count = count

    def on_reply(self, reply: Any) -> None:
        self._limiter.replayed(self._call, self._count, reply)

    def on_timeout(self) -> None:
        pass  # its reply, or LOST, still comes


class _Batch:
    """Waits for one settlement batch's reply."""

    __slots__ = ("_batch", "_command", "_limiter")

    def __init__(self, limiter: Limiter, batch: list[_Settlement], command: bytes) -> None:
        self._limiter = limiter
        self._batch = batch
        self._command = command

    def on_reply(self, reply: Any) -> None:
        self._limiter.batch_done(self._batch, self._command, reply)

    def on_timeout(self) -> None:
        pass  # its reply, or LOST, still comes


def _corrected(
    plan: Plan, event_id: bytes, event: bytes, corrections: Corrections, places: Sequence[str]
) -> _Settlement:
    """The settlement of a reservation that held something else than what is to count, or a place among those under way."""
    count = len(corrections) + len(places)
    keys = plan.settle_keys + b"".join([bulk(key.encode()) for key in (*(key for key, _ in corrections), *places)])
    deltas = b"".join([bulk(b"%d" % delta) for _, delta in corrections]) + bulk(b"") * len(places)
    arguments = b"%b%b%b%b" % (bulk(event_id), bulk(event), bulk(b"%d" % count), deltas)
    return keys, 2 + count, arguments, 3 + count


def _settle_command(batch: list[_Settlement]) -> bytes:
    keys, key_counts, arguments, argument_counts = zip(*batch, strict=True)
    key_count = sum(key_counts)
    return b"*%d\r\n%b%b%b%b" % (
        3 + key_count + sum(argument_counts),
        _SETTLE_CALL,
        bulk(b"%d" % key_count),
        b"".join(keys),
        b"".join(arguments),
    )
