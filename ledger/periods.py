"""Quota and billing periods: half-open UTC intervals [start, end) that tile time without gap or overlap. Pure.

With an anchor (the subscription's) the n-th period begins n months after it, worked out from the original anchor each
time: Jan 31 → Feb 28 → Mar 31, the time of day kept. Without an anchor periods are calendar months.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime
from typing import Final

CALENDAR: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The anchor of calendar months."""


def period_of(anchor: datetime | None, at: datetime) -> tuple[datetime, datetime]:
    """The period that contains `at`, as (start, end) in UTC. Both arguments carry a time zone."""
    origin = (anchor or CALENDAR).astimezone(UTC)
    moment = at.astimezone(UTC)
    months = (moment.year - origin.year) * 12 + moment.month - origin.month
    start = months_after(origin, months)
    if start > moment:
        months -= 1
        start = months_after(origin, months)
    return start, months_after(origin, months + 1)


def months_after(anchor: datetime, months: int) -> datetime:
    """The anchor's day and time `months` later; the month's last day where it is shorter than the anchor's day."""
    years, month = divmod(anchor.month - 1 + months, 12)
    year = anchor.year + years
    day = min(anchor.day, monthrange(year, month + 1)[1])
    return anchor.replace(year=year, month=month + 1, day=day)
