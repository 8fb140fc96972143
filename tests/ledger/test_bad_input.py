"""Bad input, all of it in one place: refused or put aside with its reason, never dropped, never counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import ids
from ledger.ingest import Writer
from stripefake.meters import report_errors
from stripefake.world import PLATFORM
from tests.ledger import books
from tests.ledger.billing.conftest import World, world
from tests.ledger.facts import DAY_MS, NOW_MS, PROJECT, entry, examples, fact

__all__ = ["world"]


def raw(**text: str) -> bytes:
    """An event whose fields are these, to the letter."""
    data = orjson.dumps(fact()).decode()
    for name, value in text.items():
        before = orjson.dumps({name: fact()[name]}).decode()[1:-1].partition(":")[0]
        start = data.index(before) + len(before) + 1
        end = data.index("}", start) + 1 if data[start] == "{" else data.index(",", start)
        data = data[:start] + value + data[end:]
    return data.encode()


BAD: dict[str, tuple[Any, str]] = {
    "a clock that ran backwards": (fact() | {"at": NOW_MS - 2 * DAY_MS}, "more than a day from"),
    "a clock that runs ahead": (fact(NOW_MS + 10 * 60_000), "in the future"),
    "from the future": (fact(NOW_MS + 30 * DAY_MS), "in the future"),
    "41 days old": (fact(NOW_MS - 41 * DAY_MS), "41 days ago, the limit is 40"),
    "a negative quantity": (fact(meters={"requests": -1}), "requests: expected an integer from 0"),
    "NaN": (raw(meters='{"requests": NaN}'), "not JSON"),
    "infinite": (raw(meters='{"requests": Infinity}'), "not JSON"),
    "a fraction": (fact(meters={"requests": 1.5}), "requests: expected an integer from 0"),
    "2^63": (fact(meters={"requests": 2**63}), "requests: expected an integer from 0"),
    "2^64 and more": (raw(meters='{"requests": 99999999999999999999999}'), "requests: expected an integer from 0"),
    "a quantity as text": (fact(meters={"requests": "1"}), "requests: expected an integer from 0"),
    "true": (fact(meters={"requests": True}), "requests: expected an integer from 0"),
    "a meter without a name": (fact(meters={"": 1}), "a meter's name has 1 to 64 characters"),
    "too many meters": (fact(meters={f"m{n}": 1 for n in range(65)}), "at most 64"),
    "no project": (fact(project=""), "project: expected 1 to 256 characters"),
    "a mode there is not": (fact(mode="prod"), "mode: expected live or test"),
}


@pytest.mark.parametrize("name", BAD)
async def test_it_is_put_aside_with_its_reason(name: str, world: World, writer: Writer) -> None:
    event, reason = BAD[name]
    await writer.store([entry(fact()), entry(event), entry(fact())])

    assert await books.read(world.pg) == books.Books(2, {"requests": 2, "bytes_out": 2048})
    (letter,) = (await books.dead_letters(world.pg)).values()
    assert reason in letter
    assert await world.used() == {"cus_ada": 2}


async def test_a_meter_that_stripe_does_not_know_is_reported(world: World, writer: Writer) -> None:
    await world.pg.execute("UPDATE billed_meters SET event_name = 'nothing'")
    await writer.store([entry(fact())])
    await world.seal()
    await world.send_all()
    report_errors(world.fake.world, world.fake.world.half(PLATFORM, livemode=True))
    assert await world.reports().ask() == 1
    assert await world.reasons() == [("dead", "no_meter")]


async def test_what_a_deleted_customer_used_is_still_billed(world: World, writer: Writer) -> None:
    await world.pg.execute("INSERT INTO customers (id, project_id, mode) VALUES ('cus_ada', $1, 'live')", PROJECT)
    await writer.store([entry(fact())])
    await world.pg.execute("DELETE FROM customers")
    await writer.store([entry(fact())])
    await world.seal()
    await world.send_all()
    assert world.billed() == {"cus_ada": 2}


async def test_a_customer_that_was_deleted_at_stripe_is_reported(world: World, writer: Writer) -> None:
    await world.door._client("live").v1.customers.delete_async(world.customers["cus_ada"])
    await writer.store([entry(fact()), entry(fact(customer="cus_bob"))])
    await world.seal()
    await world.send_all()
    report_errors(world.fake.world, world.fake.world.half(PLATFORM, livemode=True))
    await world.reports().ask()
    assert sorted(await world.reasons()) == [("dead", "meter_event_customer_not_found"), ("sent", "accepted")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(examples, max_examples=60)
@given(field=st.sampled_from(sorted(fact())), value=json_values)
async def test_any_value_in_any_field_is_stored_or_put_aside(
    ledger: asyncpg.Connection, new_writer: Callable[[], Writer], field: str, value: Any
) -> None:
    await ledger.execute("TRUNCATE usage_events, usage_hourly, usage_daily, dead_letters")
    writer = new_writer()
    try:
        event = orjson.dumps(fact() | {field: value})
    except TypeError:
        event = repr(value).encode()
    await writer.store([entry(event), entry(fact() | {"id": ids.uuid7_hex(NOW_MS)})])

    stored = (await books.read(ledger)).events
    assert stored + len(await books.dead_letters(ledger)) == 2
    assert stored >= 1
    await writer.close()
