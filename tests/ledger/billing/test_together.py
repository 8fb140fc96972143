"""Everything at once: writers, corrections, sealers and senders against a Stripe that fails, and in the end one truth."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import asyncpg

from ledger.billing.proof import flaws
from ledger.billing.seal import seal
from ledger.corrections import NotCorrected, correct
from ledger.ingest import Writer
from tests.ledger import books
from tests.ledger.billing.conftest import World
from tests.ledger.billing.test_seal import EVER
from tests.ledger.facts import HOUR_MS, NOW_MS, PROJECT, entry, fact

EVENTS: Final = 900
KINDS: Final = ("429", "500", "500_after", "drop_before", "drop_after", "truncate", "503_html")


async def test_all_of_it_at_once_ends_in_one_truth(
    world: World, new_writer: Callable[[], Writer], postgres_url: str
) -> None:
    choose = random.Random(11)
    events = [
        fact(
            NOW_MS - choose.randrange(5) * HOUR_MS,
            customer=choose.choice(["cus_ada", "cus_bob"]),
            meters={"requests": choose.randrange(1, 9)},
        )
        for _ in range(EVENTS)
    ]
    for kind in KINDS:
        world.fault(kind, times=None, probability=0.05)
    writing = asyncio.Event()

    async def write(seed: int) -> None:
        writer, order = new_writer(), random.Random(seed).sample(events, len(events))
        for start in range(0, len(order), 60):
            await writer.store([entry(event) for event in order[start : start + 60]])
            await asyncio.sleep(0)

    async def amend(pg: asyncpg.Connection) -> None:
        """Void or change some events, as soon as they are there."""
        for event in random.Random(5).sample(events, 60):
            while True:
                try:
                    async with pg.transaction():
                        wanted = None if choose.random() < 0.5 else {"requests": choose.randrange(12)}
                        event_id = uuid.UUID(hex=event["id"])
                        await correct(pg, PROJECT, "live", event_id, wanted, actor="test", reason="test")
                    break
                except NotCorrected as error:
                    if error.field != "id":
                        break
                    await asyncio.sleep(0.005)

    async def seal_along(pg: asyncpg.Connection) -> None:
        while not writing.is_set():
            await seal(pg, world.now + timedelta(days=1), grace=timedelta(0), limit=7)
            assert await flaws_now(pg) == []
            await asyncio.sleep(0.01)

    async def flaws_now(pg: asyncpg.Connection) -> list[object]:
        async with pg.transaction(isolation="repeatable_read", readonly=True):
            return list(await flaws(pg, *EVER))

    async def send_along(number: int) -> None:
        sender = world.sender(f"worker {number}")
        while not writing.is_set():
            if not await sender.send_due():
                await asyncio.sleep(0.01)

    connections = [await asyncpg.connect(postgres_url) for _ in range(3)]
    along = [
        asyncio.create_task(work, name=name)
        for name, work in (
            ("sealer 1", seal_along(connections[0])),
            ("sealer 2", seal_along(connections[1])),
            ("sender 1", send_along(1)),
            ("sender 2", send_along(2)),
        )
    ]
    try:
        await asyncio.gather(*(write(seed) for seed in range(3)), amend(connections[2]))
        writing.set()
        await asyncio.gather(*along)
    finally:
        for task in along:
            task.cancel()
        await asyncio.gather(*along, return_exceptions=True)

    # What was told already and corrected afterwards needs further usage of the period to be netted against.
    writer = new_writer()
    for customer in ("cus_ada", "cus_bob"):
        await writer.store([entry(fact(NOW_MS - 6 * HOUR_MS, customer=customer, meters={"requests": 10_000}))])
    world.fake.world.faults.clear()
    await world.pg.execute("UPDATE billing_entries SET leased_until = NULL")
    await world.seal()
    await world.send_all()

    assert await flaws(world.pg, *EVER) == []
    await books.read(world.pg)
    assert world.billed() == await world.used()
    assert await world.count("dead") == 0
    assert await world.pg.fetchval("SELECT count(*) FROM usage_events WHERE corrects IS NULL") == EVENTS + 2
    for connection in connections:
        await connection.close()
