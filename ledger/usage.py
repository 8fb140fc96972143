"""Reading usage back from the ledger: exact sums over any interval, whole hours from the rollup, edges from the events.

Periods themselves are worked out in ledger.periods. Sums are exact to the millisecond as of the moment of the query;
what is still in the stream is not in them yet. Errors are those of the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from ledger import sql
from ledger.periods import period_of

__all__ = ["Interval", "period_of", "split", "usage_in_period"]

_SQL: Final = sql.load("ledger", "usage.sql")
_HOUR: Final = timedelta(hours=1)

Interval = tuple[datetime, datetime]
"""Half-open: [start, end)."""


class Fetches(Protocol):
    """An asyncpg connection or pool."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]: ...


def split(start: datetime, end: datetime) -> tuple[Interval, Interval, Interval]:
    """[start, end) as what comes before its whole hours, the whole hours, and what comes after; each may be empty."""
    first = start.astimezone(UTC)
    last = max(first, end.astimezone(UTC))
    from_hour = first.replace(minute=0, second=0, microsecond=0)
    if from_hour < first:
        from_hour += _HOUR
    to_hour = last.replace(minute=0, second=0, microsecond=0)
    if from_hour >= to_hour:
        return (first, last), (last, last), (last, last)
    return (first, from_hour), (from_hour, to_hour), (to_hour, last)


async def usage_in_period(
    connection: Fetches, project_id: str, mode: str, customer_id: str | None, start: datetime, end: datetime
) -> dict[str, int]:
    """The quantity of every meter used in [start, end), by meter; absent where nothing was counted.

    `customer_id` None means the whole project in that mode. `start` and `end` carry a time zone.
    """
    before, hours, after = split(start, end)
    rows = await connection.fetch(_SQL["usage_in_period"], project_id, mode, customer_id, *hours, *before, *after)
    return {row["meter"]: int(row["quantity"]) for row in rows}
