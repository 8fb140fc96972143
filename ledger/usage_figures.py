"""Usage as people look at it: a month's figures, trends, breakdowns, what it costs, the log of recent requests.

For pages and the API alike; every function takes one half of a project and reads the daily rollups, so it is quick
whatever the number of events. Days and months are UTC. Figures are up to the moment, less what is still in Redis.
Quantities are ints, money minor units. Errors are those of the connection.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import asyncpg
import orjson

from ledger import sql
from ledger.periods import CALENDAR, months_after
from ledger.rating import Line, Plan, Price, bill, total

EXPORT_ROWS: Final = 200_000
_SQL: Final = sql.load("ledger", "usage_figures.sql")


class By(StrEnum):
    """What usage can be broken down by."""

    DAY = "day"
    CUSTOMER = "customer"
    KEY = "key"
    ROUTE = "route"


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month in UTC; `start` and `end` are its first day and the next month's."""

    name: str
    start: date
    end: date


@dataclass(frozen=True, slots=True)
class Summary:
    """A month's usage. `average_ms` is over the requests that were counted, None where there were none."""

    month: Month
    by_meter: Mapping[str, int]
    average_ms: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a breakdown: `id` as stored ('' where there is none), `name` for people."""

    id: str
    name: str
    by_meter: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Charge:
    """What one customer's usage of a month costs under a plan; None: there is no tier for it, so nothing."""

    customer_id: str
    external_id: str | None
    plan: str | None
    currency: str
    lines: tuple[Line, ...]

    @property
    def amount_minor(self) -> int:
        return total(self.lines)


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the log of requests. `corrects`, `actor` and `reason` are those of a correction."""

    at: datetime
    id: uuid.UUID
    customer_id: str | None
    key_id: str | None
    route_id: str | None
    method: str
    status: int
    outcome: str
    meters: Mapping[str, int]
    duration_us: int
    upstream_us: int
    corrects: uuid.UUID | None
    actor: str | None
    reason: str | None


def month(text: str | None, now: datetime) -> Month:
    """`2027-01`, or None for the month of `now`. Raises ValueError."""
    if text is None:
        text = now.astimezone(UTC).strftime("%Y-%m")
    if len(text) != 7:
        raise ValueError(text)
    start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    return Month(text, start.date(), months_after(start, 1).date())


async def summary(
    connection: asyncpg.Connection, project_id: str, mode: str, of: Month, customer_id: str | None = None
) -> Summary:
    """One month, by meter."""
    rows = await connection.fetch(_SQL["by_meter"], project_id, mode, of.start, of.end, customer_id)
    counted = max(rows, key=lambda row: (row["meter"] == "requests", row["events"]), default=None)
    average = None
    if counted is not None and counted["events"]:
        average = float(counted["duration_us"] / counted["events"] / 1000)
    return Summary(of, {row["meter"]: int(row["quantity"]) for row in rows}, average)


async def trends(
    connection: asyncpg.Connection,
    project_id: str,
    mode: str,
    months: int,
    now: datetime,
    customer_id: str | None = None,
) -> list[tuple[str, dict[str, int]]]:
    """The last `months` months, oldest first, this one included: (`2027-01`, meter → quantity)."""
    present = now.astimezone(UTC)
    number = (present.year - CALENDAR.year) * 12 + present.month - CALENDAR.month
    starts = [months_after(CALENDAR, n) for n in range(number - months + 1, number + 2)]
    rows = await connection.fetch(_SQL["by_month"], project_id, mode, starts[0].date(), starts[-1].date(), customer_id)
    found: dict[str, dict[str, int]] = {start.strftime("%Y-%m"): {} for start in starts[:-1]}
    for row in rows:
        found[row["period"]][row["meter"]] = int(row["quantity"])
    return list(found.items())


async def breakdown(
    connection: asyncpg.Connection,
    project_id: str,
    mode: str,
    of: Month,
    by: By,
    customer_id: str | None = None,
    *,
    limit: int | None = None,
    offset: int = 0,
) -> list[Part]:
    """A month by day (in order), customer, key or route (most requests first), `limit` of them after the first `offset`."""
    rows = await connection.fetch(_SQL[f"by_{by}"], project_id, mode, of.start, of.end, customer_id, limit, offset)
    parts: dict[str, Part] = {}
    for row in rows:
        part = parts.setdefault(row["id"], Part(row["id"], row["name"], {}))
        part.by_meter[row["meter"]] = int(row["quantity"])  # type: ignore[index]
    return list(parts.values())


async def rows_for_export(
    connection: asyncpg.Connection, project_id: str, mode: str, of: Month, customer_id: str | None = None
) -> list[Mapping[str, Any]]:
    """A month by day, customer, key, route and meter, at most EXPORT_ROWS rows."""
    rows = await connection.fetch(_SQL["by_everything"], project_id, mode, of.start, of.end, customer_id, EXPORT_ROWS)
    return [dict(row) for row in rows]


async def plans(connection: asyncpg.Connection, project_id: str, mode: str) -> dict[str, Plan]:
    """The tiers of a half as plans, by id: a soft quota is free units and then its price, a hard one a limit."""
    found = {}
    for row in await connection.fetch(_SQL["tiers"], project_id, mode):
        prices, limits = {}, {}
        for quota in orjson.loads(row["quotas"]):
            if quota["quota"] is None:
                continue
            if quota["is_hard"]:
                limits[quota["meter"]] = int(quota["quota"])
            else:
                prices[quota["meter"]] = Price(unit=Decimal(quota["price"] or 0), free=int(quota["quota"]))
        base = row["price_minor"] if row["billing_interval"] == "month" else 0  # a yearly price is not this month's
        found[row["id"]] = Plan(row["name"], row["currency"], base, prices, limits)
    return found


async def charges(
    connection: asyncpg.Connection,
    project_id: str,
    mode: str,
    of: Month,
    *,
    under: Plan | None = None,
    customer_id: str | None = None,
) -> list[Charge]:
    """What each customer's usage of a month costs, under its own tier of today or, what if, `under` another plan."""
    known = await plans(connection, project_id, mode)
    rows = await connection.fetch(_SQL["customers_with_tiers"], project_id, mode, of.start, of.end, customer_id)
    found = []
    for row in rows:
        plan = under or known.get(row["tier_id"] or "")
        usage = {meter: int(quantity) for meter, quantity in orjson.loads(row["usage"]).items()}
        lines = () if plan is None else tuple(bill(plan, usage))
        name, currency = (None, "usd") if plan is None else (plan.name, plan.currency)
        found.append(Charge(row["customer_id"], row["external_id"], name, currency, lines))
    return found


async def recent(
    connection: asyncpg.Connection,
    project_id: str,
    mode: str,
    limit: int,
    *,
    before: tuple[datetime, uuid.UUID] | None = None,
    customer_id: str | None = None,
    key_id: str | None = None,
    route_id: str | None = None,
) -> list[Event]:
    """The newest requests, at most `limit`, before another one where there is one."""
    at, event_id = before or (None, None)
    rows = await connection.fetch(_SQL["recent"], project_id, mode, at, event_id, customer_id, key_id, route_id, limit)
    return [Event(**{**dict(row), "meters": orjson.loads(row["meters"])}) for row in rows]
