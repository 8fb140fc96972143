"""What overage may cost in a period: admitted up to the cap to the unit, refused with 402 beyond, whoever asks."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import asyncpg
import orjson
import pytest

from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.test_parts import ASKED, ECHO, Echo, dial, exchange_of, the_parts, total
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import Books, until
from tests.support.upstreams.models import Model


async def capped(s: Stage, pg: asyncpg.Connection, cap: int, **priced: tuple[int, str]) -> None:
    """Give the stage's tier a cap, and soft quotas: meter → (included, minor units per unit beyond)."""
    tier = await pg.fetchval("SELECT id FROM tiers")
    await pg.execute("UPDATE tiers SET spend_cap_minor = $1", cap)
    for meter, (included, price) in priced.items():
        await pg.execute(
            "INSERT INTO tier_quotas (tier_id, meter, quota, is_hard, overage_unit_price) VALUES ($1, $2, $3, false, $4)",
            tier, meter, included, Decimal(price),
        )  # fmt: skip
    await s.inside.caught_up(pg)


async def statuses(s: Stage, count: int, path: str = "/api/x") -> list[int]:
    client = await s.client()
    return [(await ask(client, request(path, s.key))).status for _ in range(count)]


@pytest.mark.parametrize(
    ("cap", "price", "beyond"), [(10, "2", 5), (1, "0.1", 10), (1, "0.3", 3), (0, "0.0000000001", 0), (7, "7", 1)]
)
async def test_overage_goes_on_up_to_the_cap_and_not_a_unit_further(
    stage: MakeStage, pg: asyncpg.Connection, books: Books, cap: int, price: str, beyond: int
) -> None:
    s = await stage(answering(ok()))
    await capped(s, pg, cap, requests=(2, price))
    assert await statuses(s, 2 + beyond + 2) == [200] * (2 + beyond) + [402] * 2
    await s.inside.settled()
    assert await books.quotas() == {"requests": 2 + beyond}


async def test_the_refusal_says_why_and_until_when(stage: MakeStage, pg: asyncpg.Connection) -> None:
    s = await stage(answering(ok()))
    await capped(s, pg, 0, requests=(0, "1"))
    client = await s.client()
    answer = await ask(client, request("/api/x", s.key))
    assert (answer.status, answer.json()["code"]) == (402, "spend_cap_reached")
    assert answer.json()["violated-policies"] == ["spend"]
    assert int(answer.headers["retry-after"]) > 0
    counted = await ask(client, request("/api/data", s.key, method="POST", body=orjson.dumps({})))
    assert (counted.status, counted.json()["code"]) == (402, "spend_cap_reached")


async def test_all_meters_share_one_cap_and_what_costs_nothing_goes_on(
    stage: MakeStage, pg: asyncpg.Connection
) -> None:
    s = await stage(answering(ok()), route={"meters": {"requests": 1, "pages": 2}})
    await capped(s, pg, 10, requests=(0, "1"), pages=(2, "1"))
    # 1: 1 + 0 · 2: 2 + 2 · 3: 3 + 4 · 4: 4 + 6 = 10 · 5: over
    assert await statuses(s, 5) == [200] * 4 + [402]
    client = await s.client()
    free = await ask(client, request("/api/data", s.key, method="POST", body=orjson.dumps({"meter": "words"})))
    assert free.status == 200


async def test_at_once_no_more_than_one_after_the_other(stage: MakeStage, pg: asyncpg.Connection) -> None:
    s = await stage(answering(ok()))
    await capped(s, pg, 5, requests=(3, "1"))
    found = [status for one in await asyncio.gather(*(statuses(s, 4) for _ in range(8))) for status in one]
    assert (found.count(200), found.count(402)) == (8, 24)


async def test_a_higher_cap_applies_at_once(stage: MakeStage, pg: asyncpg.Connection) -> None:
    s = await stage(answering(ok()))
    await capped(s, pg, 1, requests=(0, "1"))
    assert await statuses(s, 2) == [200, 402]
    await pg.execute("UPDATE tiers SET spend_cap_minor = 3")
    await s.inside.caught_up(pg)
    assert await statuses(s, 3) == [200, 200, 402]


# -- long requests


@pytest.mark.parametrize("lease", [1, 3, 100])
async def test_a_websocket_ends_when_the_cap_is_reached(
    stage: MakeStage, pg: asyncpg.Connection, books: Books, lease: int
) -> None:
    s = await stage(Echo(), route={"settle_every_messages": lease})
    await capped(s, pg, 5, messages_in=(2, "1"))
    client = await dial(s)
    for _ in range(7):
        await client.send(ASKED)
        assert await client.read_exactly(len(ECHO)) == ECHO
    await client.send(ASKED)
    assert (await client.read_to_end()).endswith(b"spend cap reached")
    assert total(await the_parts(s, books), "messages_in") == 7


async def test_a_stream_ends_when_the_cap_is_reached(stage: MakeStage, pg: asyncpg.Connection, books: Books) -> None:
    model = Model(hold_after=3)
    s = await stage(model, route={"settle_every_s": 60})
    await capped(s, pg, 1, bytes_out=(100, "0.01"))
    client = await s.client()
    await client.send(request("/api/v1/chat/completions", s.key, method="POST", body=b'{"stream":true}'))
    await client.read_until(b' a"')
    assert exchange_of(s).parts.cut()
    assert not (await client.read_to_end()).endswith(b"0\r\n\r\n")
    assert [event["outcome"] for event in await the_parts(s, books)] == ["interim", "limit_reached"]
    again = await ask(await s.client(), request("/api/v1/chat/completions", s.key, method="POST", body=b"{}"))
    assert again.status == 402


async def test_a_raised_cap_holds_from_the_next_part_on(stage: MakeStage, pg: asyncpg.Connection, books: Books) -> None:
    s = await stage(Echo(), route={"settle_every_messages": 2})
    await capped(s, pg, 2, messages_in=(0, "1"))
    client = await dial(s)
    await client.send(ASKED)
    await client.read_exactly(len(ECHO))
    await pg.execute("UPDATE tiers SET spend_cap_minor = 6")
    await until(lambda: exchange_of(s).parts.caller.plan.tier.spend_cap_minor == 6)
    for _ in range(5):
        await client.send(ASKED)
        await client.read_exactly(len(ECHO))
    await client.send(ASKED)
    assert (await client.read_to_end()).endswith(b"spend cap reached")
    assert total(await the_parts(s, books), "messages_in") == 6


@pytest.mark.parametrize("limit", ["quota", "cap"])
async def test_in_shadow_mode_a_long_request_goes_on(
    stage: MakeStage, pg: asyncpg.Connection, books: Books, limit: str
) -> None:
    quotas = {"messages_in": 3} if limit == "quota" else {}
    s = await stage(Echo(), tier={"quotas": quotas, "is_shadow": True}, route={"settle_every_messages": 2})
    if limit == "cap":
        await capped(s, pg, 1, messages_in=(0, "1"))
    client = await dial(s)
    for _ in range(9):
        await client.send(ASKED)
        assert await client.read_exactly(len(ECHO)) == ECHO
    await client.close()
    await until(lambda: not s.inside.door.connections)
    assert total(await the_parts(s, books), "messages_in") == 9
