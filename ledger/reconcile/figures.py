"""What every book says about a period, and where they differ. Reads only, except for what Stripe was seen to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from ledger import sql
from ledger.billing.proof import Flaw, flaws

if TYPE_CHECKING:
    from ledger.billing.door import Door

_SQL: Final = sql.load("ledger.reconcile", "figures.sql")
BOOKS: Final = ("counters", "hourly", "daily", "slots", "entries", "stripe", "credits")


@dataclass(frozen=True, slots=True)
class Figures:
    """One customer's meter over the period, by book. None: the book does not hold it (the meter is not billed)."""

    project_id: str
    mode: str
    customer_id: str
    meter: str
    events: int
    hourly: int
    daily: int
    billable: int | None
    counted: int | None
    sealed: int | None
    credit: int | None
    entries: int | None
    sent: int | None
    due: int | None
    dead: int | None
    waived: int | None
    stripe: int | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A rollup's hour or day that differs from the events, by so many units."""

    project_id: str
    mode: str
    start: datetime
    units: int


@dataclass(frozen=True, slots=True)
class StripeHour:
    """An hour for which Stripe's sum is not what it was told. `told` and `found` in units."""

    project_id: str
    mode: str
    customer_id: str
    meter: str
    hour: datetime
    told: int
    found: int
    last_sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class CounterDrift:
    """A quota counter that is not what was used and is in flight."""

    key: str
    project_id: str
    mode: str
    owner: str
    meter: str
    counter: int
    used: int
    in_flight: int

    @property
    def units(self) -> int:
        return self.counter - self.used - self.in_flight


@dataclass(slots=True)
class Report:
    """What a reconciliation found, and did. `left_out` says which books could not be asked."""

    start: datetime
    end: datetime
    project_id: str | None
    figures: list[Figures] = field(default_factory=list)
    hours: list[Stretch] = field(default_factory=list)
    days: list[Stretch] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    stripe: list[StripeHour] = field(default_factory=list)
    counters: list[CounterDrift] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)

    @property
    def drift(self) -> dict[str, int]:
        """Units by which the books differ, by book."""
        slots = [flaw for flaw in self.flaws if flaw.check == "slots_and_events"]
        entries = [flaw for flaw in self.flaws if flaw.check != "slots_and_events"]
        return {
            "counters": sum(abs(one.units) for one in self.counters),
            "hourly": sum(one.units for one in self.hours),
            "daily": sum(one.units for one in self.days),
            "slots": sum(abs(one.expected - one.found) for one in slots),
            "entries": sum(abs(one.expected - one.found) for one in entries),
            "stripe": sum(abs(one.told - one.found) for one in self.stripe),
            "credits": sum(one.credit or 0 for one in self.figures),
        }

    @property
    def is_clean(self) -> bool:
        """True if nothing differs. Credits that wait to be netted are no difference."""
        return not any(units for book, units in self.drift.items() if book != "credits")

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "period": {"start": self.start.isoformat(), "end": self.end.isoformat()},
            "project": self.project_id,
            "isClean": self.is_clean,
            "drift": self.drift,
            "leftOut": self.left_out,
            "repairs": self.repairs,
            "figures": [asdict(one) for one in self.figures],
            "differences": {
                "counters": [asdict(one) | {"units": one.units} for one in self.counters],
                "hourly": [_shown(one) for one in self.hours],
                "daily": [_shown(one) for one in self.days],
                "billing": [_shown(one) for one in self.flaws],
                "stripe": [_shown(one) for one in self.stripe],
            },
        }


def _shown(one: Stretch | Flaw | StripeHour) -> dict[str, Any]:
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(one).items()}


async def read(connection: asyncpg.Connection, start: datetime, end: datetime, project_id: str | None) -> Report:
    """Everything that is in Postgres, as of one moment."""
    report = Report(start, end, project_id)
    async with connection.transaction(isolation="repeatable_read"):
        wanted = (start, end, project_id)
        report.figures = [_figures(row) for row in await connection.fetch(_SQL["figures"], *wanted)]
        if await connection.fetchval(_SQL["is_archived"], start, end):
            report.left_out.append("events: some of this period's are archived; bring them back to compare them")
            return report
        report.hours = [
            Stretch(row["project_id"], row["mode"], row["hour"], int(row["units"]))
            for row in await connection.fetch(_SQL["hours_that_differ"], *wanted)
        ]
        report.days = [
            Stretch(
                row["project_id"],
                row["mode"],
                datetime.combine(row["day"], datetime.min.time(), UTC),
                int(row["units"]),
            )
            for row in await connection.fetch(_SQL["days_that_differ"], *wanted)
        ]
        found = await flaws(connection, start, end)
        report.flaws = [flaw for flaw in found if project_id in (None, flaw.project_id)]
    return report


def _figures(row: asyncpg.Record) -> Figures:
    values: dict[str, Any] = {k: v if v is None or isinstance(v, str) else int(v) for k, v in row.items()}
    return Figures(**values)


async def ask_stripe(
    connection: asyncpg.Connection, door: Door, report: Report, now: datetime, *, oldest: datetime
) -> None:
    """Compare what was sent with Stripe's own sums, hour by hour, and keep them. Raises StripeUnavailable.

    Hours with an entry in doubt are left to the delivery, which asks the same question.
    """
    start = max(report.start, oldest.replace(minute=0, second=0, microsecond=0))
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    end = min(report.end, this_hour + timedelta(hours=1))
    if start >= end:
        return
    rows = await connection.fetch(_SQL["told"], start, end, report.project_id, door.modes)
    for row in rows:
        name = (row["project_id"], row["mode"], row["customer_id"], row["meter"])
        found = await door.used(
            row["mode"],
            row["account"],
            event_name=row["event_name"],
            customer=row["stripe_customer_id"],
            start=int(start.timestamp()),
            end=int(end.timestamp()),
        )
        hours = [datetime.fromtimestamp(hour, UTC) for hour in found]
        await connection.execute(_SQL["forget_seen"], *name, start, end, now)
        await connection.execute(_SQL["keep_seen"], *name, hours, list(found.values()), now)
        place = (row["stripe_customer_id"], row["account"], row["event_name"])
        told = {one["hour"]: one for one in await connection.fetch(_SQL["told_hours"], *name, start, end, *place)}
        for hour in sorted({*hours, *told}):
            sent = int(told[hour]["sent"] or 0) if hour in told else 0
            there = found.get(int(hour.timestamp()), 0)
            if sent != there and not (hour in told and told[hour]["is_in_doubt"]):
                last = told[hour]["last_sent_at"] if hour in told else None
                report.stripe.append(StripeHour(*name, hour, sent, there, last))


async def keep(connection: asyncpg.Connection, report: Report, began_at: datetime, *, is_repair: bool) -> int:
    """Store a report; returns its number."""
    import orjson

    number: int = await connection.fetchval(
        _SQL["keep_report"],
        began_at,
        report.start,
        report.end,
        report.project_id,
        is_repair,
        orjson.dumps(report.drift).decode(),
        orjson.dumps(report.as_json()).decode(),
    )
    return number


def table(report: Report, names: Sequence[tuple[str, str]] = ()) -> str:
    """The figures as text, one line per project, customer and meter; `names` are pairs of id and name to show instead."""
    called = dict(names)
    heads = ("PROJECT", "MODE", "CUSTOMER", "METER", "EVENTS", "HOURLY", "DAILY", "COUNTED", "SEALED", "SENT", "STRIPE")
    rows = [heads] + [
        (
            called.get(one.project_id, one.project_id),
            one.mode,
            called.get(one.customer_id, one.customer_id) or "-",
            one.meter,
            *(
                "-" if value is None else str(value)
                for value in (
                    one.events,
                    one.hourly,
                    one.daily,
                    one.counted,
                    one.sealed,
                    one.sent,
                    one.stripe,
                )
            ),
        )
        for one in report.figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
