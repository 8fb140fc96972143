"""What Redis is still to be told of requests that are over: queue, spool, tail.

A settlement only queues (`add`), and the queue leaves in batches. What Redis does not take (away, slow, read-only, full)
goes to the spool on disk (gateway.spool) and is replayed in order as soon as Redis takes it; what was held there, since a
request was admitted without Redis, is followed there by its settlement (`follow`). What Redis has acknowledged is kept for
some seconds more (the tail), for a Redis that has lost what it had not written to its disk yet.

A settlement whose reply was lost is sent again; the script and the ledger make that harmless. Bounds: the queue's is
`most`, the spool has its own; past either `is_full` says so and new requests are refused, nothing is dropped (unless
`loses_when_full`: then what a full spool cannot take is dropped and counted in `lost`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import hiredis

from gateway.limits.calls import SETTLE, bulk, script_sha
from gateway.limits.spooled import Unreadable, command, settle_record
from gateway.spool.disk import SpoolError

if TYPE_CHECKING:
    from gateway.limits.plan import Plan
    from gateway.limits.renewal import Corrections, Renewal
    from gateway.spool.disk import Spool
    from gateway.store.redis import RedisPipe

_log = logging.getLogger("gateway.limiter")

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
    *("OOM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS", "BUSY", "NOAUTH", "NOPERM", "NOSCRIPT", "UNKILLABLE"),
    *("CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MOVED", "ASK"),
)
"""Errors that are about Redis, not about what it was told."""


Settlement = tuple[bytes, int, bytes, int]
"""One entry of the settle script's call, as RESP: its keys, how many, its arguments, how many. A plain tuple: one is made
for each request."""


class Settlements:
    """See the module; one per gateway process. `backlogged` is set from outside while the usage streams are full."""

    def __init__(self, redis: RedisPipe, most: int, spool: Spool | None, *, loses_when_full: bool) -> None:
        self.redis = redis
        self.spool = spool
        self._most = most
        self._loses_when_full = loses_when_full
        self._loop = asyncio.get_running_loop()
        self._queue: list[Settlement] = []
        self._unspooled: list[Settlement] = []  # of requests that were held in the spool: they follow their hold there
        self._flying = 0
        self.renewals: set[Renewal] = set()
        """Parts of long requests that are being settled."""
        self._is_replaying = False
        self._replay_limit = _BATCH
        self._timer: asyncio.TimerHandle | None = None
        self.backlogged = False
        self.is_behind = spool is not None and not spool.is_empty
        """True while Redis was not told of all that was admitted without it."""
        self._tail: deque[tuple[float, bytes, int]] = deque()
        self._tail_size = 0
        self._told: Callable[[], None] | None = None
        self.lost = 0
        if self.is_behind:
            self._wake(_LINGER_S)

    @property
    def unsettled(self) -> int:
        """Settlements and holds not yet confirmed by Redis."""
        spooled = self.spool.entries if self.spool is not None else 0
        return len(self._queue) + len(self._unspooled) + self._flying + spooled + len(self.renewals)

    @property
    def is_full(self) -> bool:
        """True while what a new request uses could not be recorded."""
        if self.backlogged or len(self._queue) > self._most:
            return True
        return self.spool is not None and self.spool.is_full and not self._loses_when_full

    def add(self, settlement: Settlement) -> None:
        """Tell Redis soon."""
        queue = self._queue
        queue.append(settlement)
        if len(queue) >= _BATCH and self.redis.available:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_LINGER_S, self._timer_flush)

    def follow(self, settlement: Settlement) -> None:
        """Tell Redis after what is in the spool."""
        self._unspooled.append(settlement)
        self._wake(_LINGER_S)

    def hold(self, record: bytes) -> bool:
        """Write a record to the spool. False if that cannot be."""
        if self.spool is None or self.spool.is_full:
            return False
        try:
            self.spool.append((record,))
        except SpoolError:
            return False
        self.is_behind = True
        self._wake(_RETRY_S)
        return True

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

    def _spill(self, settlements: list[Settlement]) -> list[Settlement]:
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

    def remember(self, sent: bytes, size: int) -> None:
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
            self.is_behind = True
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
                    self.is_behind = self.is_behind and not spool.is_empty
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
            self.remember(call, count)
            self._replay_limit = min(_BATCH, self._replay_limit * 2)
            self.spool.confirm(count)
            if self.spool.is_empty:
                self.is_behind = False
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
                self.is_behind = self.is_behind and not self.spool.is_empty
        if not self._is_replaying and self._has_work:
            self._wake(_RETRY_S)

    def flush(self) -> None:
        """Send what is queued, as far as there is not too much under way."""
        while self._queue and self._flying < _MOST_FLYING:
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            self._flying += len(batch)
            command = settle_command(batch)
            self.redis.send(command, _Batch(self, batch, command))

    def batch_done(self, batch: list[Settlement], command: bytes, reply: Any) -> None:
        """A batch was answered; if not with yes, it is sent again."""
        self._flying -= len(batch)
        if type(reply) is int:
            self.remember(command, len(batch))
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
                if not self._queue and not self._unspooled and not self.renewals:
                    break
            await asyncio.sleep(0.005)
        return len(self._queue) + len(self._unspooled) + self._flying + len(self.renewals)


class _Repeated:
    """Waits for what was acknowledged once before."""

    __slots__ = ()

    def on_reply(self, reply: Any) -> None:
        pass

    def on_timeout(self) -> None:
        pass


class _Replay:
    """Waits for the reply to one batch of spooled records."""

    __slots__ = ("_call", "_count", "_settlements")

    def __init__(self, settlements: Settlements, call: bytes, count: int) -> None:
        self._settlements = settlements
        self._call = call
        self._count = count

    def on_reply(self, reply: Any) -> None:
        self._settlements.replayed(self._call, self._count, reply)

    def on_timeout(self) -> None:
        pass  # its reply, or LOST, still comes


class _Batch:
    """Waits for one settlement batch's reply."""

    __slots__ = ("_batch", "_command", "_settlements")

    def __init__(self, settlements: Settlements, batch: list[Settlement], command: bytes) -> None:
        self._settlements = settlements
        self._batch = batch
        self._command = command

    def on_reply(self, reply: Any) -> None:
        self._settlements.batch_done(self._batch, self._command, reply)

    def on_timeout(self) -> None:
        pass  # its reply, or LOST, still comes


def corrected(plan: Plan, event_id: bytes, event: bytes, corrections: Corrections, places: Sequence[str]) -> Settlement:
    """The settlement of a reservation that held something else than what is to count, or a place among those under way."""
    count = len(corrections) + len(places)
    keys = plan.settle_keys + b"".join([bulk(key.encode()) for key in (*(key for key, _ in corrections), *places)])
    deltas = b"".join([bulk(b"%d" % delta) for _, delta in corrections]) + bulk(b"") * len(places)
    arguments = b"%b%b%b%b" % (bulk(event_id), bulk(event), bulk(b"%d" % count), deltas)
    return keys, 2 + count, arguments, 3 + count


def settle_command(batch: list[Settlement]) -> bytes:
    keys, key_counts, arguments, argument_counts = zip(*batch, strict=True)
    key_count = sum(key_counts)
    return b"*%d\r\n%b%b%b%b" % (
        3 + key_count + sum(argument_counts),
        _SETTLE_CALL,
        bulk(b"%d" % key_count),
        b"".join(keys),
        b"".join(arguments),
    )
