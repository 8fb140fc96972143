"""What may be under way at once: requests of a route, customer and project, connections, and how large they may be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.wire import Answer, answering, ask, drop, ok, read_answer, read_request, request
from tests.support.gateway import Books, Catalogue, until
from tests.support.raw import Peer

HELLO = answering(ok(b"hello"))


class Held:
    """An upstream that answers each request when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Peer] = []

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                await read_request(peer)
                self.waiting.append(peer)
        except (EOFError, TimeoutError, ConnectionError):
            pass

    async def answer(self) -> None:
        await self.waiting.pop(0).send(ok(b"hello"))


async def begin(s: Stage, up: Held, key: str, path: str = "/api/x") -> Peer:
    """A client whose request is under way."""
    client, before = await s.client(), len(up.waiting)
    await client.send(request(path, key))
    await until(lambda: len(up.waiting) == before + 1)
    return client


async def turn(s: Stage, key: str) -> Answer:
    return await ask(await s.client(), request("/api/x", key))


async def test_a_customer_has_so_many_at_once(stage: MakeStage, catalogue: Catalogue, books: Books) -> None:
    up = Held()
    s = await stage(up, tier={"concurrent": 2, "per_minute": 100, "quotas": {"requests": 100}})
    other = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    first = await begin(s, up, s.key)
    await begin(s, up, s.key)
    refused = await turn(s, s.key)
    assert (refused.status, refused.json()["code"], refused.headers["retry-after"]) == (429, "too_many_at_once", "1")
    assert refused.json()["violated-policies"] == ["concurrent"]
    await begin(s, up, other)  # somebody else is not concerned
    assert await books.quotas() == {"requests": 3}  # what was refused was never asked for

    await up.answer()
    assert (await read_answer(first)).body == b"hello"
    await begin(s, up, s.key)
    assert (await turn(s, s.key)).status == 429


@pytest.mark.parametrize(
    ("route", "settings"), [({"concurrent_requests": 2}, {}), ({}, {"max_requests_per_project": 2})]
)
async def test_a_route_and_a_project_have_so_many_at_once(
    stage: MakeStage, catalogue: Catalogue, route: dict[str, Any], settings: dict[str, Any]
) -> None:
    up = Held()
    s = await stage(up, route=route, **settings)
    await catalogue.route("other", "/other/*", [(s.upstream.host, s.upstream.port)])
    await s.inside.caught_up(catalogue.pg)
    secret = await catalogue.key("sk")
    await begin(s, up, s.key)
    await begin(s, up, secret)
    refused = await turn(s, secret)
    assert (refused.status, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
    if route:
        await begin(s, up, s.key, "/other/x")
    else:
        assert (await ask(await s.client(), request("/other/x", s.key))).status == 503


@pytest.mark.parametrize("how", ["answered", "client gone", "upstream gone", "body too large", "refused"])
async def test_whatever_ends_a_request_lets_go_of_it(stage: MakeStage, how: str) -> None:
    up = Held()
    tier = {"concurrent": 1, "per_minute": 2}
    s = await stage(up, tier=tier, route={"concurrent_requests": 1, "max_body_bytes": 3, "retries": 0})
    caps = s.inside.gateway.caps._caps
    if how == "body too large":
        client = await s.client()
        await client.send(request("/api/x", s.key, "Transfer-Encoding: chunked", method="POST") + b"2\r\nab\r\n")
        await until(lambda: sum(cap.used for cap in caps.values()) == 2)
        await client.send(b"2\r\nab\r\n")
        assert (await read_answer(client)).status == 413
    else:
        client = await begin(s, up, s.key)
        assert sorted(cap.used for cap in caps.values()) == [1, 1]
        if how in ("answered", "refused"):
            await up.answer()
            assert (await read_answer(client)).status == 200
        elif how == "client gone":
            drop(client)
        else:
            await up.waiting[0].close()
            assert (await read_answer(client)).status == 502
    if how == "refused":
        second = asyncio.create_task(turn(s, s.key))
        await until(lambda: up.waiting)
        await up.answer()
        await second
        assert (await turn(s, s.key)).json()["code"] == "rate_limited"
    await s.inside.settled()
    assert {cap.used for cap in caps.values()} == {0}


async def test_a_reload_does_not_forget_what_is_under_way(stage: MakeStage, catalogue: Catalogue) -> None:
    up = Held()
    s = await stage(up, route={"concurrent_requests": 1})
    await begin(s, up, s.key)
    await catalogue.pg.execute("""UPDATE routes SET spec = spec || '{"concurrent_requests": 2}'""")
    await s.inside.caught_up(catalogue.pg)
    await begin(s, up, s.key)
    assert (await turn(s, s.key)).status == 503


async def test_without_caps_nothing_is_counted(stage: MakeStage) -> None:
    s = await stage(HELLO)
    assert (await turn(s, s.key)).status == 200
    assert len(s.inside.gateway.caps._caps) == 0


async def test_connections_beyond_the_limit_are_turned_back(stage: MakeStage) -> None:
    s = await stage(HELLO, max_connections=2)
    first, second = await s.client(), await s.client()
    for client in (first, second):
        assert (await ask(client, request("/api/x", s.key))).status == 200
    beyond = await s.client()
    answer = await ask(beyond, request("/api/x", s.key))
    assert (answer.status, answer.json()["code"], answer.headers["connection"]) == (503, "overloaded", "close")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert await beyond.read_to_end() == b""
    assert s.inside.gateway.metrics.counts["connections_refused_total"] == 1
    assert (await ask(first, request("/api/x", s.key))).status == 200
    await second.close()
    await until(lambda: len(s.inside.door.connections) == 1)
    assert (await turn(s, s.key)).status == 200


async def test_a_route_may_want_small_heads(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"max_header_bytes": 200})
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    answer = await ask(client, request("/api/x", s.key, "X-Long: " + "x" * 200))
    assert (answer.status, answer.json()["code"]) == (431, "headers_too_large")
    assert (await ask(client, request("/api/x", s.key))).status == 200


async def test_callers_who_send_the_same_fields_have_caps_of_their_own(stage: MakeStage, catalogue: Catalogue) -> None:
    up = Held()
    s = await stage(up, tier={"concurrent": 1})
    keys = [await catalogue.key("ck", customer=await catalogue.customer(name)) for name in ("bob", "eve", "joe")]
    for key in keys:
        await begin(s, up, key)
    for key in keys:
        assert (await turn(s, key)).status == 429
