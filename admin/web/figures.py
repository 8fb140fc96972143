"""Usage as the pages show it, from the daily rollup. The one module of the pages that asks for usage.

A period is a calendar month in UTC unless said otherwise. Figures are what the ledger holds at the moment; a call is in
them a second or so after it was answered.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import asyncpg
import orjson

from admin.nouns import Scope
from ledger import sql
from ledger.periods import months_after, period_of

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
    this, end = month_of(datetime.now(UTC))
    starts = [months_after(this, n) for n in range(1 - count, 1)]
    rows = await connection.fetch(_SQL["by_month"], scope.project_id, scope.mode, meter, starts[0].date(), end.date())
    found = {row["start"]: row["quantity"] for row in rows}
    return [Point(start, f"{start:%B %Y}", f"{start:%b}", found.get(start.date(), 0)) for start in starts]


async def days(connection: asyncpg.Connection, scope: Scope, meter: str, start: datetime, end: datetime) -> list[Point]:
    """Every day of a period that has begun."""
    rows = await connection.fetch(_SQL["by_day"], scope.project_id, scope.mode, meter, start.date(), end.date())
    found = {row["start"]: row["quantity"] for row in rows}
    last = min(end, datetime.now(UTC))
    points = []
    day = start
    while day < last:
        points.append(Point(day, f"{day.day} {day:%b %Y}", f"{day.day} {day:%b}", found.get(day.date(), 0)))
        day += timedelta(days=1)
    return points


async def shares(
    connection: asyncpg.Connection, scope: Scope, by: By, meter: str, start: datetime, end: datetime, limit: int = 10
) -> list[Share]:
    """Who or what used most of a meter."""
    rows = await connection.fetch(
        _SQL[f"by_{by}"], scope.project_id, scope.mode, meter, start.date(), end.date(), limit
    )
    return [Share(**row) for row in rows]


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


async def as_csv(connection: asyncpg.Connection, scope: Scope, start: datetime, end: datetime) -> bytes:
    """A period by day, customer, key, route and meter, at most 100,000 lines."""
    rows = await connection.fetch(_SQL["export"], scope.project_id, scope.mode, start.date(), end.date())
    names = ("day", "customer", "key", "route", "meter", "quantity", "events")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([f"{row['day']:%Y-%m-%d}", *(_inert(row[name]) for name in names[1:])])
    return out.getvalue().encode()


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def most(points: Sequence[Point]) -> int:
    """The highest bar, at least 1."""
    return max((point.value for point in points), default=0) or 1
