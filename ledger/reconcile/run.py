"""A whole reconciliation: read, ask Redis and Stripe, repair if asked to, read again, store."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ledger import sql
from ledger.periods import months_after, period_of
from ledger.reconcile import counters
from ledger.reconcile.figures import Report, ask_stripe, keep, read
from ledger.reconcile.repair import repair

if TYPE_CHECKING:
    from ledger.billing.door import Door

OLDEST: Final = timedelta(days=90)
"""How far back Stripe is asked about."""
_SQL: Final = sql.load("ledger.reconcile", "repair.sql")

log = logging.getLogger(__name__)


def month_of(text: str | None, now: datetime) -> tuple[datetime, datetime]:
    """`2027-01`, or None for the month of `now`, as a half-open interval in UTC. Raises ValueError."""
    if text is None:
        return period_of(None, now)
    start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    return start, months_after(start, 1)


async def reconcile(
    connection: asyncpg.Connection,
    start: datetime,
    end: datetime,
    *,
    project_id: str | None = None,
    redis: Redis | None = None,
    shards: int = 0,
    door: Door | None = None,
    is_repair: bool = False,
    now: datetime | None = None,
) -> Report:
    """Compare all books over [start, end) and store the report. Redis and Stripe are left out where they cannot be had.

    With `is_repair` what can be put right is, and the report is of afterwards, with what was done. Repairs wait for each
    other: most add what is missing, which must not be done by two that have both seen it missing.
    """
    if not is_repair:
        return await _reconcile(connection, start, end, project_id, redis, shards, door, now, is_repair=False)
    await connection.execute(_SQL["begin_repair"])
    try:
        return await _reconcile(connection, start, end, project_id, redis, shards, door, now, is_repair=True)
    finally:
        if not connection.is_closed():
            await connection.execute(_SQL["end_repair"])


async def _reconcile(
    connection: asyncpg.Connection,
    start: datetime,
    end: datetime,
    project_id: str | None,
    redis: Redis | None,
    shards: int,
    door: Door | None,
    now: datetime | None,
    *,
    is_repair: bool,
) -> Report:
    moment = datetime.now(UTC) if now is None else now
    report = await _compare(connection, start, end, project_id, redis, shards, door, moment)
    if is_repair and not report.is_clean:
        done = await repair(connection, report, moment)
        if redis is not None and report.counters:
            try:
                done += await counters.put_right(redis, report.counters)
            except (RedisError, OSError) as error:
                log.warning("counters could not be put right: %s", type(error).__name__)
        moment += timedelta(microseconds=1)  # another look
        report = await _compare(connection, start, end, project_id, redis, shards, door, moment)
        report.repairs = done
    await keep(connection, report, moment, is_repair=is_repair)
    return report


async def _compare(
    connection: asyncpg.Connection,
    start: datetime,
    end: datetime,
    project_id: str | None,
    redis: Redis | None,
    shards: int,
    door: Door | None,
    now: datetime,
) -> Report:
    asked: Report = Report(start, end, project_id)
    if door is None:
        asked.left_out.append("stripe: no key is set")
    else:
        from ledger.billing.door import StripeUnavailable

        try:
            await ask_stripe(connection, door, asked, now, oldest=now - OLDEST)
        except StripeUnavailable as error:
            asked.left_out.append(f"stripe: {error}")
    report = await read(connection, start, end, project_id)
    report.stripe = asked.stripe
    report.left_out += asked.left_out
    if redis is None:
        report.left_out.append("counters: no Redis is set")
    else:
        try:
            report.counters = await counters.drifting(redis, connection, shards, project_id)
        except (RedisError, OSError) as error:
            report.left_out.append(f"counters: Redis is away ({type(error).__name__})")
    return report
