"""Putting right what a report found, each kind of drift in its own way, never so that Stripe counts anything twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import asyncpg

from ledger import sql
from ledger.reconcile.figures import Report, StripeHour

SETTLED: Final = timedelta(hours=24)
"""Stripe adds up in the background: what its sums lack is believed only so long after it was sent."""

_LOCK: Final = sql.load("ledger.billing", "billed.sql")["lock"]
_SQL: Final = sql.load("ledger.reconcile", "repair.sql")


async def repair(connection: asyncpg.Connection, report: Report, now: datetime) -> list[str]:
    """Put right what is in Postgres, in one transaction that keeps ingest waiting; returns what was done."""
    done: list[str] = []
    async with connection.transaction():
        await connection.execute(_LOCK)
        for hour in report.hours:
            await connection.execute(_SQL["clear_hour"], hour.project_id, hour.mode, hour.start)
            await connection.execute(_SQL["roll_up_hour"], hour.project_id, hour.mode, hour.start)
            done.append(f"hourly rollup of {hour.project_id} at {hour.start:%Y-%m-%d %H:00} made again")
        for day in report.days:
            await connection.execute(_SQL["clear_day"], day.project_id, day.mode, day.start)
            await connection.execute(_SQL["roll_up_day"], day.project_id, day.mode, day.start)
            done.append(f"daily rollup of {day.project_id} at {day.start:%Y-%m-%d} made again")
        for flaw in report.flaws:
            name = (flaw.project_id, flaw.mode, flaw.customer_id, flaw.meter, flaw.hour)
            if flaw.check == "slots_and_events":
                missing = Decimal(flaw.expected - flaw.found)
                await connection.execute(_SQL["adjust_slot"], *name, missing)
                done.append(f"slot of {flaw.customer_id} for {flaw.meter} at {flaw.hour:%Y-%m-%d %H:%M}: {missing:+f}")
            elif flaw.check == "slots_and_entries" and flaw.found > flaw.expected:
                await connection.execute(_SQL["raise_sealed"], *name, Decimal(flaw.found))
                done.append(f"slot of {flaw.customer_id} for {flaw.meter}: sealed raised to {flaw.found}")
        for one in report.stripe:
            done += await _settle_with_stripe(connection, one, now)
    return done


async def _settle_with_stripe(connection: asyncpg.Connection, one: StripeHour, now: datetime) -> list[str]:
    from ledger.billing.deliver import counted_there

    name = (one.project_id, one.mode, one.customer_id, one.meter, one.hour)
    rows = await connection.fetch(_SQL["sent_of_hour"], *name)
    if sum(int(row["value"]) for row in rows) != one.told:
        return []  # it has moved on since it was looked at
    if one.found > one.told:
        excess = Decimal(one.found - one.told)
        if await connection.fetchval(_SQL["count_as_sent"], *name, excess) is None:
            return []
        return [f"Stripe has {excess} more of {one.meter} for {one.customer_id}: counted as sent"]
    if one.last_sent_at is None or one.last_sent_at > now - SETTLED:
        return []
    there = counted_there(one.found, 0, [int(row["value"]) for row in rows])
    if there is None:
        return []
    missing = [row["id"] for row, is_there in zip(rows, there, strict=True) if not is_there]
    made_again = await replay(connection, missing, ["sent"])
    return [f"Stripe lacks {identifier}: made again" for identifier in made_again]


async def replay(connection: asyncpg.Connection, entry_ids: Sequence[int], states: Sequence[str]) -> list[str]:
    """Have entries made again under new identifiers; returns the old ones. Those that others were netted into stay."""
    rows = await connection.fetch(_SQL["replay"], list(entry_ids), list(states))
    return [row["identifier"] for row in rows]
