"""Reading usage back: equal to adding up the events oneself, for every interval and however it lies in the hours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.ingest import Writer
from ledger.usage import period_of, split, usage_in_period
from tests.ledger.facts import HOUR_MS, NOW, NOW_MS, PROJECT, entry, examples, fact, ms

HOUR = timedelta(hours=1)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))


@examples
@given(start=moments, length=st.timedeltas(timedelta(0), timedelta(hours=50)))
def test_an_interval_is_its_edges_and_its_whole_hours(start: datetime, length: timedelta) -> None:
    before, hours, after = split(start, start + length)

    assert before[0] == start
    assert before[1] == hours[0]
    assert hours[1] == after[0]
    assert after[1] == start + length
    assert before[1] - before[0] < HOUR or hours[0] == hours[1]
    assert after[1] - after[0] < HOUR
    if hours[0] < hours[1]:
        assert all((moment.minute, moment.second, moment.microsecond) == (0, 0, 0) for moment in hours)


def test_an_interval_that_ends_before_it_begins_is_empty() -> None:
    assert split(NOW, NOW - HOUR) == ((NOW, NOW), (NOW, NOW), (NOW, NOW))


async def test_usage_is_told_by_meter_customer_and_mode(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store(
        [
            entry(fact()),
            entry(fact(meters={"requests": 1, "tokens": 70})),
            entry(fact(customer="cus_bob")),
            entry(fact(customer=None)),
            entry(fact(mode="test")),
            entry(fact(project="prj_other")),
        ]
    )
    start, end = period_of(None, NOW)

    async def told(project: str, mode: str, customer: str | None) -> dict[str, int]:
        return await usage_in_period(ledger, project, mode, customer, start, end)

    assert await told(PROJECT, "live", "cus_ada") == {"requests": 2, "bytes_out": 1024, "tokens": 70}
    assert await told(PROJECT, "live", "cus_bob") == {"requests": 1, "bytes_out": 1024}
    assert await told(PROJECT, "live", None) == {"requests": 4, "bytes_out": 3072, "tokens": 70}
    assert await told(PROJECT, "test", "cus_ada") == {"requests": 1, "bytes_out": 1024}
    assert await told("prj_nobody", "live", None) == {}


async def test_more_than_64_bits_are_told_exactly(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact(meters={"tokens": 2**53})) for _ in range(3000)])

    assert await usage_in_period(ledger, PROJECT, "live", None, NOW - HOUR, NOW + HOUR) == {"tokens": 3000 * 2**53}


@pytest.mark.parametrize("edge", [NOW, NOW.replace(minute=0)])
async def test_the_start_is_in_and_the_end_is_not(edge: datetime, ledger: asyncpg.Connection, writer: Writer) -> None:
    instant = timedelta(milliseconds=1)
    await writer.store([entry(fact(ms(moment))) for moment in (edge - instant, edge, edge + instant)])

    for start, end, expected in (
        (edge, edge + HOUR, 2),
        (edge - HOUR, edge, 1),
        (edge, edge + instant, 1),
        (edge, edge, 0),
    ):
        counted = await usage_in_period(ledger, PROJECT, "live", "cus_ada", start, end)
        assert counted.get("requests", 0) == expected


@settings(examples, max_examples=40)
@given(data=st.data())
async def test_any_interval_is_what_adding_up_the_events_gives(
    ledger: asyncpg.Connection, new_writer: Callable[[], Writer], data: st.DataObject
) -> None:
    if not await ledger.fetchval("SELECT count(*) FROM usage_events"):
        ages = [n * HOUR_MS // 3 + n % 2 for n in range(40)]
        await new_writer().store([entry(fact(NOW_MS - age, meters={"requests": 1, "n": age})) for age in ages])
    edges = st.integers(NOW_MS - 15 * HOUR_MS, NOW_MS + HOUR_MS) | st.integers(-15, 1).map(
        lambda n: NOW_MS - 1_800_000 + n * HOUR_MS
    )
    start, end = sorted(datetime.fromtimestamp(data.draw(edges) / 1000, UTC) for _ in range(2))

    counted = await usage_in_period(ledger, PROJECT, "live", "cus_ada", start, end)

    row = await ledger.fetchrow(
        "SELECT count(*) AS requests, sum((meters->>'n')::bigint)::bigint AS n"
        " FROM usage_events WHERE at >= $1 AND at < $2",
        start,
        end,
    )
    assert counted == ({"requests": row["requests"], "n": row["n"]} if row["requests"] else {})
