"""Periods: they tile time without gap or overlap, from the original anchor, for every anchor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.periods import months_after, period_of
from tests.ledger.facts import examples

moments = st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))
anchors = st.none() | moments
INSTANT = timedelta(microseconds=1)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@examples
@given(anchor=anchors, at=moments)
def test_a_moment_lies_in_its_period(anchor: datetime | None, at: datetime) -> None:
    start, end = period_of(anchor, at)

    assert start <= at < end
    assert timedelta(days=28) <= end - start <= timedelta(days=31)
    assert start.tzinfo is UTC
    assert end.tzinfo is UTC


@examples
@given(anchor=anchors, at=moments)
def test_periods_tile_time(anchor: datetime | None, at: datetime) -> None:
    start, end = period_of(anchor, at)

    assert period_of(anchor, start) == (start, end)
    assert period_of(anchor, end - INSTANT) == (start, end)
    assert period_of(anchor, end)[0] == end
    assert period_of(anchor, start - INSTANT)[1] == start


@examples
@given(anchor=moments, count=st.integers(-1200, 1200))
def test_a_period_begins_on_the_anchors_day_or_the_last_of_a_shorter_month(anchor: datetime, count: int) -> None:
    start = months_after(anchor, count)

    assert start.timetz() == anchor.timetz()
    assert (start.year - anchor.year) * 12 + start.month - anchor.month == count
    if start.day != anchor.day:
        assert start.day < anchor.day
        assert (start + timedelta(days=1)).day == 1


@examples
@given(at=moments)
def test_without_an_anchor_periods_are_calendar_months(at: datetime) -> None:
    start, end = period_of(None, at)

    assert start == at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert end.day == 1


@examples
@given(anchor=moments, at=moments, hours=st.integers(-14, 14))
def test_the_time_zone_of_the_arguments_does_not_matter(anchor: datetime, at: datetime, hours: int) -> None:
    elsewhere = timezone(timedelta(hours=hours))

    assert period_of(anchor.astimezone(elsewhere), at.astimezone(elsewhere)) == period_of(anchor, at)


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2026-01-31T08:00", "2026-01-31T08:00", "2026-02-28T08:00"),
        ("2026-02-28T07:59:59", "2026-01-31T08:00", "2026-02-28T08:00"),
        ("2026-02-28T08:00", "2026-02-28T08:00", "2026-03-31T08:00"),
        ("2026-04-30T07:00", "2026-03-31T08:00", "2026-04-30T08:00"),
        ("2028-02-29T09:00", "2028-02-29T08:00", "2028-03-31T08:00"),
        ("2026-01-31T07:59", "2025-12-31T08:00", "2026-01-31T08:00"),
        ("2025-02-28T09:00", "2025-02-28T08:00", "2025-03-31T08:00"),
    ],
)
def test_january_31_leads_to_the_last_day_of_february_and_back_to_march_31(at: str, start: str, end: str) -> None:
    assert period_of(day("2026-01-31T08:00"), day(at)) == (day(start), day(end))
