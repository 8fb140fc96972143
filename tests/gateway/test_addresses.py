"""Limits by client address: on routes for everybody, and for keys that nobody knows."""

from __future__ import annotations

import asyncpg
import redis.asyncio

from ledger.keys import KeyKind, Mode, generate
from tests.gateway.conftest import MakeStage
from tests.gateway.wire import Answer, answering, ask, ok, request
from tests.support.gateway import Books

FROM = "X-Forwarded-For: %s"


async def test_each_address_has_its_own_minute_on_a_route_for_everybody(
    stage: MakeStage, books: Books, redis_client: redis.asyncio.Redis
) -> None:
    s = await stage(
        answering(ok()),
        route={"auth": "none", "requests_per_minute_per_ip": 2},
        trusted_proxies=("127.0.0.1",),
    )

    async def of(address: str) -> Answer:
        async with await s.client() as client:
            return await ask(client, request("/api/x", None, FROM % address))

    first = await of("203.0.113.9")
    assert (first.status, first.headers["ratelimit-policy"]) == (200, '"ip-minute";q=2;w=60')
    assert first.headers["ratelimit"].startswith('"ip-minute";r=1')
    assert [(await of("203.0.113.9")).status for _ in range(2)] == [200, 429]
    assert (await of("203.0.113.9")).json()["violated-policies"] == ["ip-minute"]
    assert (await of("203.0.113.10")).status == 200
    assert [(await of(f"2001:db8::{n}")).status for n in (1, 2, 3)] == [200, 200, 429]  # one /64
    await s.inside.settled()
    assert len(await books.events()) == 5
    assert len(await redis_client.keys("tg:*:win:*")) == 3


async def test_a_flood_of_unknown_keys_is_not_a_flood_of_look_ups(stage: MakeStage, pg: asyncpg.Connection) -> None:
    s = await stage(answering(ok()), unknown_keys_per_minute=3)
    looked_up = []
    principal = s.inside.gateway.snapshot.principal

    async def counted(key_hash: bytes) -> object:
        looked_up.append(key_hash)
        return await principal(key_hash)

    s.inside.gateway.snapshot.principal = counted  # type: ignore[method-assign]
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    looked_up.clear()
    unknown = [generate(KeyKind.SECRET, Mode.LIVE).text for _ in range(6)]
    answers = [await ask(client, request("/api/x", key)) for key in unknown]
    assert [a.status for a in answers] == [401, 401, 401, 429, 429, 429]
    assert answers[-1].json()["code"] == "too_many_unknown_keys"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 61
    assert len(looked_up) == 3
    assert (await ask(client, request("/api/x", unknown[0]))).status == 401  # known not to exist: no look-up
    assert (await ask(client, request("/api/x", s.key))).status == 200  # keys in memory are served all the while
    assert (await ask(client, request("/api/x", "sk_live_mistyped"))).status == 401
