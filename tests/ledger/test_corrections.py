"""Corrections: further rows, never a change; rollups, slots and Stripe follow."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.billing.proof import flaws
from ledger.corrections import NotCorrected, UnknownEvent, correct, difference
from ledger.ingest import Writer
from ledger.receipt import receipt
from tests.ledger import books
from tests.ledger.billing.conftest import World, world
from tests.ledger.billing.test_seal import EVER
from tests.ledger.facts import NOW_MS, PROJECT, entry, examples, fact

__all__ = ["world"]
WHO: dict[str, str] = {"actor": "key:key_1", "reason": "the answer was wrong"}


async def stored(writer: Writer, **meters: int) -> uuid.UUID:
    event = fact(meters=meters)
    await writer.store([entry(event)])
    return uuid.UUID(hex=event["id"])


async def change(pg: asyncpg.Connection, event_id: uuid.UUID, wanted: Any, **who: str) -> dict[str, int]:
    async with pg.transaction():
        return dict((await correct(pg, PROJECT, "live", event_id, wanted, **(WHO | who))).effective)


async def test_a_void_is_a_row_that_says_who_and_why(ledger: asyncpg.Connection, writer: Writer) -> None:
    event_id = await stored(writer, requests=1, tokens=70)
    before = await ledger.fetchrow("SELECT * FROM usage_events WHERE id = $1", event_id)

    assert await change(ledger, event_id, None) == {"requests": 0, "tokens": 0}

    assert await ledger.fetchrow("SELECT * FROM usage_events WHERE id = $1", event_id) == before
    row = await ledger.fetchrow("SELECT * FROM usage_events WHERE corrects = $1", event_id)
    assert row is not None
    assert (row["at"], row["outcome"], row["actor"], row["reason"]) == (
        before and before["at"],
        "voided",
        "key:key_1",
        "the answer was wrong",
    )
    assert await books.read(ledger) == books.Books(2, {"requests": 0, "tokens": 0})
    hourly = await ledger.fetchrow("SELECT quantity, events FROM usage_hourly WHERE meter = 'tokens'")
    assert hourly is not None
    assert tuple(hourly) == (0, 1)


async def test_an_adjustment_can_be_adjusted_again(ledger: asyncpg.Connection, writer: Writer) -> None:
    event_id = await stored(writer, requests=1, tokens=70)
    assert await change(ledger, event_id, {"tokens": 50}) == {"requests": 1, "tokens": 50}
    assert await change(ledger, event_id, {"tokens": 90}) == {"requests": 1, "tokens": 90}
    assert await change(ledger, event_id, None) == {"requests": 0, "tokens": 0}
    assert (await books.read(ledger)).meters == {"requests": 0, "tokens": 0}

    shown = await receipt(ledger, PROJECT, "live", event_id)
    assert shown is not None
    assert [(one["kind"], one["meters"]) for one in shown["corrections"]] == [
        ("adjusted", {"tokens": -20}),
        ("adjusted", {"tokens": 40}),
        ("voided", {"requests": -1, "tokens": -90}),
    ]
    assert shown["effective"] == {"requests": 0, "tokens": 0}


@pytest.mark.parametrize(
    ("wanted", "who", "message"),
    [
        ({"tokens": -1}, {}, "integer from 0"),
        ({"tokens": 2**63}, {}, "integer from 0"),
        ({"tokens": float("nan")}, {}, "integer from 0"),
        ({"tokens": 1.5}, {}, "integer from 0"),
        ({"tokens": True}, {}, "integer from 0"),
        ({"nothing": 1}, {}, "the event has no meter 'nothing'"),
        ({"tokens": 70}, {}, "nothing changes"),
        ({"tokens": 1}, {"reason": " "}, "say why"),
        ({"tokens": 1}, {"reason": "x" * 501}, "say why"),
        ({"tokens": 1}, {"reason": "\0"}, "say why"),
    ],
)
async def test_what_is_no_correction_is_refused_and_changes_nothing(
    wanted: Any, who: dict[str, str], message: str, ledger: asyncpg.Connection, writer: Writer
) -> None:
    event_id = await stored(writer, requests=1, tokens=70)
    with pytest.raises(NotCorrected, match=message):
        await change(ledger, event_id, wanted, **who)
    assert (await books.read(ledger)).events == 1


async def test_events_of_others_and_corrections_cannot_be_corrected(ledger: asyncpg.Connection, writer: Writer) -> None:
    event_id = await stored(writer, requests=1)
    for project, mode in (("prj_other", "live"), (PROJECT, "test")):
        with pytest.raises(UnknownEvent):
            await correct(ledger, project, mode, event_id, None, **WHO)
    with pytest.raises(UnknownEvent):
        await change(ledger, uuid.uuid4(), None)
    await change(ledger, event_id, None)
    with pytest.raises(NotCorrected, match="nothing changes"):
        await change(ledger, event_id, None)
    correction = await ledger.fetchval("SELECT id FROM usage_events WHERE corrects IS NOT NULL")
    with pytest.raises(NotCorrected, match="this is a correction"):
        await change(ledger, correction, None)


async def test_two_corrections_at_once_take_turns(
    ledger: asyncpg.Connection, writer: Writer, postgres_url: str
) -> None:
    event_id = await stored(writer, requests=1, tokens=70)
    others = [await asyncpg.connect(postgres_url) for _ in range(3)]
    results = await asyncio.gather(*(change(pg, event_id, None) for pg in others), return_exceptions=True)
    for pg in others:
        await pg.close()

    assert [type(result) for result in results].count(NotCorrected) == 2
    assert (await books.read(ledger)).meters == {"requests": 0, "tokens": 0}


async def test_what_was_told_to_stripe_is_netted(world: World, writer: Writer) -> None:
    first = await stored(writer, requests=10)
    await world.seal()
    await world.send_all()
    assert world.billed() == {"cus_ada": 10}

    await change(world.pg, first, {"requests": 4})
    await world.seal()
    await world.send_all()
    assert world.billed() == {"cus_ada": 10}  # nothing to net against yet

    await writer.store([entry(fact(NOW_MS - 2 * 3_600_000, meters={"requests": 9}))])
    await world.seal()
    await world.send_all()
    assert world.billed() == {"cus_ada": 13} == await world.used()
    assert await flaws(world.pg, *EVER) == []


@settings(examples, max_examples=20)
@given(data=st.data())
async def test_after_any_corrections_all_books_agree(world: World, writer: Writer, data: st.DataObject) -> None:
    """Use, correct, seal and send in any order; in the end Stripe has the truth, less credits that found no usage."""
    events: list[uuid.UUID] = []
    for step in data.draw(st.lists(st.sampled_from(["use", "use", "correct", "void", "seal"]), max_size=10)):
        if step == "use":
            events.append(await stored(writer, requests=data.draw(st.integers(1, 20))))
        elif step == "seal":
            await world.seal()
            await world.send_all()
        elif events:
            chosen = data.draw(st.sampled_from(events))
            wanted = None if step == "void" else {"requests": data.draw(st.integers(0, 30))}
            try:
                await change(world.pg, chosen, wanted)
            except NotCorrected:
                pass
        assert await flaws(world.pg, *EVER) == []
        await books.read(world.pg)
    await stored(writer, requests=500)
    await world.seal()
    await world.send_all()
    assert world.billed() == await world.used()


@examples
@given(
    current=st.dictionaries(st.sampled_from("abc"), st.integers(0, 99), min_size=1),
    wanted=st.dictionaries(st.sampled_from("abcd"), st.integers(-2, 99)) | st.none(),
)
def test_a_difference_leads_where_it_was_wanted(current: dict[str, int], wanted: dict[str, int] | None) -> None:
    try:
        added = difference(current, wanted)
    except NotCorrected:
        return
    after = {meter: quantity + added.get(meter, 0) for meter, quantity in current.items()}
    assert all(quantity >= 0 for quantity in after.values())
    assert after == (dict.fromkeys(current, 0) if wanted is None else current | wanted)
