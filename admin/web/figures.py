"""Usage as the pages show it: ledger.usage_figures, and what only pages want (tiles, the first few, names).

A period is a calendar month in UTC unless said otherwise. Figures are what the ledger holds at the moment; a call is in
them a second or so after it was answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import asyncpg
import orjson

from admin.nouns import Scope
from ledger import sql, usage_figures
from ledger.periods import period_of

REQUESTS: Final = "requests"
By = Literal["customer", "key", "route"]

_SQL = sql.load("admin.web", "figures.sql")


@dataclass(frozen=True, slots=True)
class Point:
    """One bar of a chart."""

    start: datetime
    label: str
    short: str
    value: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One meter this month."""

    meter: str
    month: int
    today: int
    customers: int


@dataclass(frozen=True, slots=True)
class Share:
    """What one customer, key or route used. `id` is "" for calls without one; `name` None for what is gone."""

    id: str
    name: str | None
    quantity: int
    events: int


def month_of(now: datetime) -> tuple[datetime, datetime]:
    """The calendar month of a moment."""
    return period_of(None, now)


def parse_month(text: str | None, now: datetime) -> tuple[datetime, datetime]:
    """The month that `2026-11` names; the present one for what names none."""
    try:
        start = datetime.strptime(text or "", "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        return month_of(now)
    return month_of(start) if 2000 <= start.year < 9000 else month_of(now)


async def tiles(connection: asyncpg.Connection, scope: Scope) -> list[Tile]:
    """Every meter used this month, requests first."""
    now = datetime.now(UTC)
    start, _ = month_of(now)
    rows = await connection.fetch(_SQL["tiles"], scope.project_id, scope.mode, start.date(), now.date())
    found = [Tile(**row) for row in rows]
    if not any(tile.meter == REQUESTS for tile in found):
        found.append(Tile(REQUESTS, 0, 0, 0))
    return sorted(found, key=lambda tile: (tile.meter != REQUESTS, tile.meter))


async def has_any(connection: asyncpg.Connection, scope: Scope) -> bool:
    """True once anything was counted."""
    return bool(await connection.fetchval(_SQL["has_any"], scope.project_id, scope.mode))


async def months(connection: asyncpg.Connection, scope: Scope, meter: str, count: int = 6) -> list[Point]:
    """The last months, this one last; 0 where nothing was counted."""
    found = await usage_figures.trends(connection, scope.project_id, scope.mode, count, datetime.now(UTC))
    starts = [(datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC), meters) for name, meters in found]
    return [Point(start, f"{start:%B %Y}", f"{start:%b}", meters.get(meter, 0)) for start, meters in starts]


async def days(connection: asyncpg.Connection, scope: Scope, meter: str, start: datetime, end: datetime) -> list[Point]:
    """Every day of a month that has begun."""
    now = datetime.now(UTC)
    month = usage_figures.month(f"{start:%Y-%m}", now)
    parts = await usage_figures.breakdown(connection, scope.project_id, scope.mode, month, usage_figures.By.DAY)
    found = {part.id: part.by_meter.get(meter, 0) for part in parts}
    points = []
    day = start
    while day < min(end, now):
        points.append(Point(day, f"{day.day} {day:%b %Y}", f"{day.day} {day:%b}", found.get(f"{day:%Y-%m-%d}", 0)))
        day += timedelta(days=1)
    return points


async def shares(
    connection: asyncpg.Connection, scope: Scope, by: By, meter: str, start: datetime, end: datetime, limit: int = 10
) -> list[Share]:
    """Who or what used most of a meter; nobody who used none."""
    rows = await connection.fetch(
        _SQL[f"by_{by}"], scope.project_id, scope.mode, meter, start.date(), end.date(), limit
    )
    return [Share(**row) for row in rows if row["quantity"]]


async def meters(connection: asyncpg.Connection, scope: Scope, since: datetime) -> list[str]:
    """The meters that were used since, requests first."""
    rows = await connection.fetch(_SQL["meters"], scope.project_id, scope.mode, since.date())
    return sorted({REQUESTS, *(row["meter"] for row in rows)}, key=lambda meter: (meter != REQUESTS, meter))


async def recent(
    connection: asyncpg.Connection, scope: Scope, before: datetime | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The last requests before a moment, the newest first; at most 62 days back."""
    at = before or datetime.now(UTC) + timedelta(minutes=5)  # clocks of gateways may be ahead
    rows = await connection.fetch(_SQL["recent"], scope.project_id, scope.mode, at, limit)
    return [{**row, "meters": orjson.loads(row["meters"])} for row in rows]


def most(points: Sequence[Point]) -> int:
    """The highest bar, at least 1."""
    return max((point.value for point in points), default=0) or 1
