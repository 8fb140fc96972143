"""Dead letters: listed with their reason, stored once their cause is gone, never twice."""

from __future__ import annotations

import asyncpg
import orjson

from ledger.dead_letters import dead_letters, parsed, replay
from ledger.ingest import Writer
from tests.ledger import books
from tests.ledger.billing.conftest import World, world
from tests.ledger.facts import DAY_MS, NOW_MS, entry, fact

__all__ = ["world"]
TOMORROW = NOW_MS + DAY_MS


async def test_an_event_from_the_future_is_stored_once_its_time_has_come(
    ledger: asyncpg.Connection, writer: Writer
) -> None:
    early = fact(TOMORROW)
    await writer.store([entry(early), entry(b"not JSON"), entry(fact())])
    letters = await dead_letters(ledger)
    assert {letter.reason.split(":")[0] for letter in letters} == {"at", "not JSON"}
    assert len(await dead_letters(ledger, "stream", 1)) == 1
    assert await dead_letters(ledger, "billing") == []
    ids = [letter.id for letter in letters]

    assert [one.is_done for one in await replay(ledger, ids, NOW_MS)] == [False, False]
    done = {one.id: one for one in await replay(ledger, [*ids, "stream-999", "nonsense"], TOMORROW)}
    assert sorted(one.is_done for one in done.values()) == [False, True]
    assert await replay(ledger, [one.id for one in done.values() if one.is_done], TOMORROW) == []

    assert (await books.read(ledger)).events == 2
    assert len(await dead_letters(ledger)) == 1


async def test_one_that_was_stored_meanwhile_counts_once(ledger: asyncpg.Connection, writer: Writer) -> None:
    early = fact(TOMORROW)
    await writer.store([entry(early)])
    (letter,) = await dead_letters(ledger)
    await writer.store([entry(fact())])
    await ledger.execute(
        "UPDATE dead_letters SET payload = $1", orjson.dumps(fact(NOW_MS) | {"id": early["id"], "at": TOMORROW})
    )
    await replay(ledger, [letter.id], TOMORROW)
    await ledger.execute(
        "INSERT INTO dead_letters (stream, entry_id, payload, reason) VALUES ('s', '1-1', $1, 'again')",
        orjson.dumps(early),
    )
    (again,) = await dead_letters(ledger)
    assert [one.is_done for one in await replay(ledger, [again.id], TOMORROW)] == [True]
    assert (await books.read(ledger)).events == 2


async def test_what_the_ledger_refuses_stays(ledger: asyncpg.Connection, writer: Writer) -> None:
    await writer.store([entry(fact(customer=None, external="x" * 201))])
    (letter,) = await dead_letters(ledger)
    (done,) = await replay(ledger, [letter.id], NOW_MS)
    assert not done.is_done
    assert "customers" in done.reason
    assert await books.read(ledger) == books.Books(0, {})


async def test_a_dead_billing_entry_is_made_again_under_a_new_identifier(world: World, writer: Writer) -> None:
    await writer.store([entry(fact(meters={"requests": 5}))])
    await world.seal()
    await world.pg.execute("UPDATE billing_entries SET state = 'dead', reason = 'meter_event_customer_not_found'")
    (letter,) = await dead_letters(world.pg, "billing")
    assert letter.id.startswith("billing-")
    assert letter.reason == "meter_event_customer_not_found"

    assert [one.is_done for one in await replay(world.pg, [letter.id], NOW_MS)] == [True]
    assert await replay(world.pg, [letter.id], NOW_MS) == []
    await world.seal()
    await world.send_all()

    assert world.billed() == {"cus_ada": 5}
    assert [state for state, _ in await world.reasons()] == ["replayed", "sent"]


async def test_what_stripe_may_have_is_made_again_by_force_only(world: World, writer: Writer) -> None:
    await writer.store([entry(fact(meters={"requests": 5}))])
    await world.seal()
    await world.pg.execute("UPDATE billing_entries SET state = 'dead', reason = 'ambiguous'")
    (letter,) = await dead_letters(world.pg)

    (refused,) = await replay(world.pg, [letter.id], NOW_MS)
    assert (refused.is_done, refused.reason) == (False, "Stripe may have it already; only with force")
    assert [one.is_done for one in await replay(world.pg, [letter.id], NOW_MS, force=True)] == [True]


def test_ids_are_a_kind_and_a_number() -> None:
    assert parsed("stream-12") == ("stream", 12)
    assert [parsed(text) for text in ("stream-", "stream-x", "12", "mail-1", "stream-1; DROP")] == [None] * 5
