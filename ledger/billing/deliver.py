"""Delivering entries to Stripe: each counted there once, however often a call is lost, repeated or cut in two.

A worker *claims* the oldest due entry of each customer and meter under a lease, calls Stripe, and settles the entry by
the verdict (door). Several workers share the work; a lease outlasts any call, so no entry is with two of them, and only
one entry of a customer and meter is with any of them. A worker that was killed leaves leases that run out; an entry that
others held up until its lease would not outlast its call is let go unsent.

    accepted, duplicate   sent
    refused               dead, with Stripe's code; the next entry of that customer goes on
    throttled             due again after a pause, which holds for all entries of this worker
    unavailable           due again after a pause
    unknown               due again after a pause, in doubt since the first try; the same identifier is used

Stripe knows an identifier for a day. An entry in doubt for longer (DOUBT) is compared with Stripe's own sums for its hour
first: it is found there, or certainly missing and sent, or neither can be said, and it is dead as `ambiguous` for a
person to look at. Entries older than 30 days raise an alarm, older than 35 they are dead as `too_old`.

How it fails: Postgres away, the verdict is lost, the lease runs out and Stripe answers `duplicate` next time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any, Final

import asyncpg

from ledger import sql
from ledger.billing.door import Door, Outcome, StripeUnavailable, Verdict
from ledger.billing.seal import TOO_OLD
from ledger.metrics import BillingMetrics

LEASE: Final = timedelta(seconds=60)
CALL: Final = timedelta(seconds=30)
"""Longest that a call takes, and writing down what came of it: an entry whose lease ends sooner is let go instead."""
DOUBT: Final = timedelta(hours=18)
"""Identifiers are certain to be known for a day; six hours are left for clocks that are set back, and slow calls."""
ALARM: Final = timedelta(days=30)
MOST_TRIED: Final = 15
"""Doubtful entries of one hour that are tried in all combinations; beyond, nothing can be said in reasonable time."""

_FIRST_S: Final = 1.0
_LONGEST_S: Final = 300.0
_SQL: Final = sql.load("ledger.billing", "deliver.sql")

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


def pause_s(attempt: int, jitter: float) -> float:
    """Seconds before the try after the `attempt`-th (from 1); `jitter` from 0 to 1 takes away up to a half."""
    return min(_LONGEST_S, _FIRST_S * 2.0 ** min(attempt - 1, 20)) * (1 - jitter / 2)


def counted_there(found: int, sent: int, doubtful: Sequence[int]) -> list[bool] | None:
    """Which of the doubtful values Stripe has, if it adds up to `found` and `sent` of it is certain. Pure.

    None if no choice of them explains the sum. Where several do, any is as good: they add up to the same.
    """
    missing = found - sent
    if missing < 0 or len(doubtful) > MOST_TRIED:
        return None
    for size in range(len(doubtful) + 1):
        for chosen in combinations(range(len(doubtful)), size):
            if sum(doubtful[n] for n in chosen) == missing:
                return [n in chosen for n in range(len(doubtful))]
    return None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An entry that is ours for the length of a lease. `doubt_since`: Stripe may have it since then, before this try."""

    id: int
    project_id: str
    mode: str
    customer_id: str
    meter: str
    starts_at: datetime
    identifier: str
    value: int
    event_name: str
    attempts: int
    turn: int
    account: str | None
    stripe_customer: str
    doubt_since: datetime | None
    leased_until: datetime

    @property
    def hour(self) -> datetime:
        return self.starts_at.replace(minute=0, second=0, microsecond=0)


class Pace:
    """At most so many calls a second, evenly; `pause` holds all of them up."""

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1 / per_second
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until it is one's turn."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next)
        self._next = start + self._interval_s
        await asyncio.sleep(start - now)

    def pause(self, seconds: float) -> None:
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


class Sender:
    """One worker's part of the delivery. `pool` is an asyncpg pool of at least two connections."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        door: Door,
        metrics: BillingMetrics,
        *,
        name: str,
        per_second: float = 20,
        at_once: int = 8,
        lease: timedelta = LEASE,
        now: Callable[[], datetime] = utc_now,
        pause: Callable[[int, float], float] = pause_s,
    ) -> None:
        self._pool = pool
        self._door = door
        self._metrics = metrics
        self._name = name
        self._pace = Pace(per_second)
        self._at_once = at_once
        self._calls = asyncio.Semaphore(at_once)
        self._lease = lease
        self._now = now
        self._pause_s = pause

    async def send_due(self) -> int:
        """Claim what is due and deliver it; returns how many entries were tried. Raises what asyncpg raises.

        Claims two rounds of calls at once: looking for the oldest of each costs 90 ms where 200,000 are due.
        """
        now = self._now()
        until = now + self._lease
        rows = await self._pool.fetch(_SQL["claim"], self._name, until, self._door.modes, 2 * self._at_once, now)
        entries = [
            Claimed(
                row["id"], row["project_id"], row["mode"], row["customer_id"], row["meter"], row["starts_at"],
                row["identifier"], int(row["value"]), row["event_name"], row["attempts"], row["turn"], row["account"],
                row["stripe_customer_id"], row["doubt_since"], until,
            )
            for row in rows
        ]  # fmt: skip
        await self._deliver_all(entries)
        return len(entries)

    async def _deliver_all(self, entries: Sequence[Claimed]) -> None:
        """All at once; one that fails does not break off the others, and its error is raised at the end.

        Not a TaskGroup: a failure in one leaves early 3.11s counting a cancellation that never ends a later time-out.
        """
        tasks = [asyncio.create_task(self._in_turn(one), name=f"entry {one.identifier}") for one in entries]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            task.result()

    async def _in_turn(self, entry: Claimed) -> None:
        async with self._calls:
            await self._deliver(entry)

    async def _deliver(self, entry: Claimed) -> None:
        if entry.doubt_since is not None and entry.doubt_since < self._now() - DOUBT:
            try:
                is_there = await self._is_there(entry)
            except StripeUnavailable as error:
                log.info("an entry in doubt cannot be compared with Stripe now: %s", error)
                return await self._again(entry, Outcome(Verdict.UNAVAILABLE, "summaries"), entry.doubt_since)
            if is_there is None:
                log.error(
                    "entry %s: Stripe's sum for its hour fits neither way; a person has to look", entry.identifier
                )
                return await self._settle(entry, "dead", "ambiguous")
            if is_there:
                self._metrics.sent.labels("found").inc()
                return await self._settle(entry, "sent", "found")
            entry_doubt = None
        else:
            entry_doubt = entry.doubt_since
        await self._pace.turn()
        if self._now() > entry.leased_until - min(CALL, self._lease / 2):  # others took too long: it is not sent
            return await self._settle(entry, "due", None, doubt_since=entry_doubt)
        outcome = await self._door.send_usage(
            entry.mode,
            entry.account,
            event_name=entry.event_name,
            customer=entry.stripe_customer,
            value=entry.value,
            timestamp=int(entry.starts_at.timestamp()),
            identifier=entry.identifier,
            turn=entry.turn,
        )
        match outcome.verdict:
            case Verdict.ACCEPTED | Verdict.DUPLICATE:
                self._metrics.sent.labels(outcome.verdict).inc()
                await self._settle(entry, "sent", outcome.verdict)
            case Verdict.REFUSED:
                log.error("Stripe refuses entry %s: %s", entry.identifier, outcome.reason)
                self._metrics.failures.labels(outcome.verdict).inc()
                await self._settle(entry, "dead", outcome.reason)
            case Verdict.UNKNOWN:
                await self._again(entry, outcome, entry_doubt or self._now())
            case _:
                await self._again(entry, outcome, entry_doubt)

    async def _again(self, entry: Claimed, outcome: Outcome, doubt_since: datetime | None) -> None:
        """Not now: due again later."""
        self._metrics.failures.labels(outcome.verdict).inc()
        wait_s = self._pause_s(entry.attempts, random.random())  # noqa: S311 - spreads load, guards nothing
        if outcome.verdict is Verdict.THROTTLED:
            self._pace.pause(min(wait_s, 5.0))
        await self._settle(entry, "due", None, outcome, self._now() + timedelta(seconds=wait_s), doubt_since)

    async def _settle(
        self,
        entry: Claimed,
        state: str,
        reason: str | None,
        outcome: Outcome | None = None,
        available_at: datetime | None = None,
        doubt_since: datetime | None = None,
    ) -> None:
        now = self._now()
        error = f"{outcome.verdict}: {outcome.reason}"[:200] if outcome is not None else None
        turns = int(outcome is not None and outcome.is_answered)
        await self._pool.execute(
            _SQL["settle"], entry.id, self._name, state, reason, error, available_at or now, doubt_since, turns, now
        )

    async def _is_there(self, entry: Claimed) -> bool | None:
        """Whether Stripe counts an entry in doubt; None if that cannot be told. Raises StripeUnavailable."""
        rows = await self._pool.fetch(
            _SQL["of_hour"],
            entry.project_id,
            entry.mode,
            entry.customer_id,
            entry.meter,
            entry.hour,
            entry.account,
            entry.stripe_customer,
        )
        start = int(entry.hour.timestamp())
        found = await self._door.used(
            entry.mode,
            entry.account,
            event_name=entry.event_name,
            customer=entry.stripe_customer,
            start=start,
            end=start + 3600,
        )
        doubtful = [row for row in rows if row["state"] == "due"]
        sent = sum(int(row["value"]) for row in rows if row["state"] == "sent")
        there = counted_there(found.get(start, 0), sent, [int(row["value"]) for row in doubtful])
        if there is None:
            return None
        return next(is_there for row, is_there in zip(doubtful, there, strict=True) if row["id"] == entry.id)

    async def watch(self) -> None:
        """Put aside what is too old, and keep the gauges; the alarm for what is nearly too old."""
        now = self._now()
        for row in await self._pool.fetch(_SQL["expire"], now - TOO_OLD, now):
            log.error("entry %s is dead: %s", row["identifier"], row["reason"])
            self._metrics.failures.labels(row["reason"]).inc()
        levels: Any = await self._pool.fetchrow(_SQL["levels"])
        oldest_s = 0.0 if levels["oldest"] is None else (now - levels["oldest"]).total_seconds()
        self._metrics.due.set(levels["due"])
        self._metrics.dead.set(levels["dead"])
        self._metrics.pending.set(levels["pending"])
        self._metrics.oldest.set(oldest_s)
        if oldest_s > ALARM.total_seconds():
            log.error("usage of %d days ago is not billed yet; Stripe takes it for 35 days", oldest_s // 86_400)
