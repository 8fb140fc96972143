"""The nightly reconciliation: this month and, in its first days, the one before; by one worker, once a night."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
from redis.asyncio import Redis

from ledger import sql
from ledger.metrics import BillingMetrics
from ledger.periods import period_of
from ledger.reconcile.run import reconcile

if TYPE_CHECKING:
    from ledger.billing.door import Door

EVERY: Final = timedelta(hours=24)
HOUR: Final = 3
"""In UTC: the day before is over, and Stripe has added it up."""
_LAST_MONTH_UNTIL_DAY: Final = 5
_LOCK: Final = 7240318804
_SQL: Final = sql.load("ledger.reconcile", "figures.sql")

log = logging.getLogger(__name__)


def is_due(last: datetime | None, now: datetime) -> bool:
    """True from 03:00 UTC on, if it has not been done since. Pure."""
    tonight = now.replace(hour=HOUR, minute=0, second=0, microsecond=0)
    if tonight > now:
        tonight -= EVERY
    return last is None or last < tonight


async def reconcile_if_due(
    connect: Callable[[], Awaitable[asyncpg.Connection]],
    redis: Redis,
    shards: int,
    door: Door | None,
    metrics: BillingMetrics,
    now: datetime | None = None,
) -> bool:
    """Reconcile if tonight's is due and nobody else is at it; returns whether it was done. Repairs nothing."""
    moment = datetime.now(UTC) if now is None else now
    connection = await connect()
    try:
        is_done = await _reconcile(connection, redis, shards, door, metrics, moment)
    except BaseException:
        connection.terminate()  # closing in order would wait for a server that hangs
        raise
    await connection.close(timeout=5)
    return is_done


async def _reconcile(
    connection: asyncpg.Connection,
    redis: Redis,
    shards: int,
    door: Door | None,
    metrics: BillingMetrics,
    moment: datetime,
) -> bool:
    if not is_due(await connection.fetchval(_SQL["newest"]), moment):
        return False
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # held until the connection ends
        return False
    start, end = period_of(None, moment)
    periods = [(start, end)]
    if moment.day <= _LAST_MONTH_UNTIL_DAY:
        periods.insert(0, period_of(None, start - timedelta(days=1)))
    drift: dict[str, int] = {}
    for period in periods:
        report = await reconcile(connection, *period, redis=redis, shards=shards, door=door, now=moment)
        for book, units in report.drift.items():
            drift[book] = drift.get(book, 0) + units
        if not report.is_clean:
            log.error("the books of %s differ: %s", f"{period[0]:%Y-%m}", report.drift)
    for book, units in drift.items():
        metrics.drift.labels(book).set(units)
    return True
