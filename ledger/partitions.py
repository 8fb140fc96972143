"""Monthly partitions of usage_events, made before they are needed, and the trimming of `changes`.

A partition is made as a table of its own and then attached, which unlike CREATE … PARTITION OF blocks neither readers
nor writers of the parent. Workers take turns on an advisory lock; one that finds everything there does nothing.
Errors are asyncpg's own; the caller tries again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import asyncpg

from ledger import sql

MONTHS_BACK: Final = 2
"""Events up to 40 days old are taken, which reaches at most two months back."""

_LOCK: Final = 7240318802
_SQL: Final = sql.load("ledger", "partitions.sql")


def months(now: datetime, back: int, ahead: int) -> list[tuple[datetime, datetime]]:
    """The half-open UTC months around `now`: `back` before it, its own, `ahead` after it."""
    present = now.astimezone(UTC)
    first = present.year * 12 + present.month - 1 - back
    starts = [datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in range(first, first + back + ahead + 2)]
    return list(pairwise(starts))


async def ensure_partitions(connection: asyncpg.Connection, now: datetime, ahead: int = 1) -> list[str]:
    """Make the partitions that are missing, from two months back to `ahead` months ahead; returns their names."""
    wanted = {f"usage_events_{start:%Y_%m}": (start, end) for start, end in months(now, MONTHS_BACK, ahead)}
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        present = {row["relname"] for row in await connection.fetch(_SQL["present"])}
        missing = sorted(wanted.keys() - present)
        for name in missing:
            start, end = wanted[name]
            await connection.execute(_SQL["create"].format(name=name, start=start.isoformat(), end=end.isoformat()))
    return missing


async def trim_changes(connection: asyncpg.Connection) -> int:
    """Delete rows of `changes` older than a day, except the newest of all; returns how many.

    The newest stays so that a reader can always tell where the revisions are: one that has seen less than the oldest
    row left reloads everything.
    """
    status = await connection.execute(_SQL["trim_changes"])
    return int(status.rpartition(" ")[2])
