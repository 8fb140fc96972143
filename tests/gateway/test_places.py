"""How much may be under way at once holds over all gateways, whatever ends a request or a gateway."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
import redis.asyncio

from ledger import names
from ledger.specs import StoreFailure
from ledger.sweep import Sweeper
from tests.gateway.metering.test_frames import frame
from tests.gateway.test_app import plane
from tests.gateway.test_caps import Held
from tests.gateway.test_parts import cut, dial
from tests.gateway.test_websocket import ACCEPTED, HANDSHAKE
from tests.gateway.wire import Answer, ask, drop, ok, read_answer, read_request, request
from tests.support.gateway import SHARDS, Books, Catalogue, InProcessGateway, until
from tests.support.raw import Peer, Upstream, connect

Script = Callable[[Peer], Awaitable[None]]


class Two:
    """Two gateways on one Redis, with a route /api/* to one upstream and ada's key."""

    def __init__(self, gateways: list[InProcessGateway], key: str, stack: AsyncExitStack) -> None:
        self.gateways, self.key, self._stack = gateways, key, stack

    async def client(self, which: int) -> Peer:
        return await self._stack.enter_async_context(await connect(*self.gateways[which].address))

    async def turn(self, which: int, *lines: str) -> Answer:
        async with await connect(*self.gateways[which].address) as client:
            return await ask(client, request("/api/x", self.key, *lines))

    async def settled(self) -> None:
        for gateway in self.gateways:
            await gateway.settled()


MakeTwo = Callable[..., Awaitable[Two]]


@pytest.fixture
async def two(catalogue: Catalogue, postgres_url: str, redis_url: str) -> AsyncIterator[MakeTwo]:
    async with AsyncExitStack() as stack:

        async def make(script: Script, *, tier: dict[str, Any] | None = None, **route: Any) -> Two:
            upstream = await stack.enter_async_context(Upstream(script))
            plan = await catalogue.tier("free", default=True, **(tier or {}))
            key = await catalogue.key("ck", customer=await catalogue.customer("ada", tier=plan))
            await catalogue.route("api", "/api/*", [(upstream.host, upstream.port)], **route)
            gateways = []
            for name in ("one", "two"):
                gateway = InProcessGateway(postgres_url, redis_url, name=name)
                gateways.append(await stack.enter_async_context(gateway))
                await gateway.ready()
            return Two(gateways, key, stack)

        yield make


async def begin(t: Two, up: Held, which: int, path: str = "/api/x") -> Peer:
    """A client whose request is under way through one of the gateways."""
    client, before = await t.client(which), len(up.waiting)
    await client.send(request(path, t.key))
    await until(lambda: len(up.waiting) == before + 1)
    return client


@pytest.mark.parametrize(("tier", "route", "status", "code"), [
    ({"concurrent": 2}, {}, 429, "too_many_at_once"),
    ({}, {"concurrent_requests": 2}, 503, "overloaded"),
])  # fmt: skip
async def test_the_limit_is_one_over_all_gateways(
    two: MakeTwo, books: Books, tier: dict[str, Any], route: dict[str, Any], status: int, code: str
) -> None:
    up = Held()
    t = await two(up, tier={"quotas": {"requests": 100}} | tier, **route)
    first = await begin(t, up, 0)
    await begin(t, up, 1)
    for which in (0, 1, 0, 1):
        refused = await t.turn(which)
        assert (refused.status, refused.json()["code"], refused.headers["retry-after"]) == (status, code, "1")
        assert refused.json()["violated-policies"] == ["concurrent"]
        assert refused.headers["ratelimit"].startswith('"requests";r=98;')
    assert await books.quotas() == {"requests": 2}

    await up.answer()
    assert (await read_answer(first)).status == 200
    await begin(t, up, 1)  # free at once, and for the other gateway
    assert (await t.turn(0)).status == status
    assert sum((await books.places()).values()) == 2
    while up.waiting:
        await up.answer()
    await t.settled()
    assert await books.places() == {}


async def test_who_asks_for_one_thing_after_the_other_is_never_refused(two: MakeTwo) -> None:
    async def quick(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ok(b"x"))

    t = await two(quick, tier={"concurrent": 1})
    assert Counter([(await t.turn(n % 2)).status for n in range(100)]) == {200: 100}
    client = await t.client(0)
    await client.send(request("/api/x", t.key) * 20)  # pipelined, too
    assert [(await read_answer(client)).status for _ in range(20)] == [200] * 20


async def test_nor_if_the_other_gateway_is_slow_to_say_that_it_is_over(
    two: MakeTwo, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = Held()
    t = await two(up, tier={"concurrent": 1})
    limiter = t.gateways[0].gateway.limiter
    flush, loop = limiter.settlements.flush, asyncio.get_running_loop()
    monkeypatch.setattr(limiter.settlements, "flush", lambda: loop.call_later(0.005, flush))
    for n in range(6):
        client = await begin(t, up, n % 2)
        await up.answer()
        assert (await read_answer(client)).status == 200


class Crowd:
    """An upstream that answers in many ways, and knows how many requests it ever had at once."""

    def __init__(self) -> None:
        self.now = self.most = self.served = 0
        self.random = random.Random(7)

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                head = await read_request(peer)
                if b"/abort" in head:  # who leaves is not counted: here it is seen later than there
                    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
                    await peer.read_to_end()
                    return
                self.now += 1
                self.served += 1
                self.most = max(self.most, self.now)
                await asyncio.sleep(self.random.random() * 0.004)
                if b"/broken" in head:
                    self.now -= 1
                    return
                if b"/ws" in head:
                    await peer.send(ACCEPTED + frame(1, 3))
                    await peer.read_some()
                    self.now -= 1
                    return
                body = ok(b"hello") if b"/plain" in head else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                if b"/stream" in head:
                    await peer.send(body + b"1\r\na\r\n")
                    await asyncio.sleep(self.random.random() * 0.003)
                    body = b"1\r\nb\r\n0\r\n\r\n"
                self.now -= 1
                await peer.send(body)
        except (EOFError, ConnectionError, TimeoutError):
            pass


async def test_a_thousand_requests_of_all_kinds_are_never_more_than_that_at_once(two: MakeTwo, books: Books) -> None:
    crowd, seen = Crowd(), Counter[int]()
    t = await two(crowd, tier={"concurrent": 5, "quotas": {"requests": None}}, retries=0)

    async def user(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(42):
            kind = chance.choice(["plain", "plain", "stream", "broken", "abort", "ws"])
            async with await connect(*t.gateways[chance.randrange(2)].address) as client:
                lines = HANDSHAKE if kind == "ws" else ()
                await client.send(request(f"/api/{kind}", t.key, *lines))
                if kind == "abort":
                    await client.read_some()
                    seen[0] += 1
                    drop(client)
                    continue
                answer = await read_answer(client)
                seen[answer.status] += 1
                if answer.status == 101:
                    await client.read_exactly(5)
                    await client.send(frame(8, 0, is_masked=True))

    await asyncio.gather(*(user(seed) for seed in range(24)))
    assert sum(seen.values()) == 24 * 42
    assert crowd.most <= 5
    assert crowd.served > 100
    assert set(seen) <= {0, 101, 200, 429, 502}
    assert seen[429] > 0
    await t.settled()
    assert await books.places() == {}
    assert await books.reservations() == []


async def test_what_a_killed_gateway_had_under_way_leaves_when_it_is_swept(
    catalogue: Catalogue, postgres_url: str, redis_url: str, redis_client: redis.asyncio.Redis, books: Books
) -> None:
    up = Held()
    async with Upstream(up) as upstream:
        plan = await catalogue.tier("free", default=True, concurrent=2, quotas={"requests": 10})
        key = await catalogue.key("ck", customer=await catalogue.customer("ada", tier=plan))
        await catalogue.route("api", "/api/*", [(upstream.host, upstream.port)])
        with (
            plane(postgres_url, redis_url, workers=1) as doomed,
            plane(postgres_url, redis_url, workers=1) as other,
        ):
            held = []
            for n in range(2):
                held.append(await connect("127.0.0.1", doomed.port))
                await held[-1].send(request("/api/x", key))
                await until(lambda n=n: len(up.waiting) == n + 1)
            async with await connect("127.0.0.1", other.port) as client:
                assert (await ask(client, request("/api/x", key))).status == 429
                [name] = await gateways_named(redis_client)
                for worker in doomed.workers():
                    os.kill(worker, signal.SIGKILL)
                for peer in held:
                    await peer.close()
                assert (await ask(client, request("/api/x", key))).status == 429
                sweeper = Sweeper(redis_client, 16, "charge_estimate")
                assert await sweeper.sweep() == 0
                await redis_client.delete(names.gateway_alive(name))  # as in 15 seconds
                await sweeper.sweep()
                assert await sweeper.sweep() == 2
                up.waiting.clear()
                await client.send(request("/api/x", key))
                await until(lambda: up.waiting)
                await up.answer()
                assert (await read_answer(client)).status == 200


async def gateways_named(client: redis.asyncio.Redis) -> set[str]:
    """Who has something under way."""
    held = [raw for shard in range(16) for raw in await client.hvals(names.reservations(shard))]
    return {orjson.loads(raw)["gateway"] for raw in held}


async def test_a_long_websocket_keeps_its_place_through_all_its_parts(stage: Any, books: Books) -> None:
    async def open_ended(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ACCEPTED)
        await peer.read_to_end()

    s = await stage(open_ended, tier={"concurrent": 1}, route={"settle_every_messages": 5})
    client = await dial(s)
    for _ in range(3):
        await cut(s)
        assert list((await books.places()).values()) == [1]
        assert (await ask(await s.client(), request("/api/x", s.key))).status == 429
    await s.inside.gateway.snapshot.close()  # the tier is what it was, whatever becomes of the row
    drop(client)
    await s.inside.settled()
    assert await books.places() == {}


@pytest.mark.parametrize(
    ("policy", "each"), [(StoreFailure.OPEN, 4), (StoreFailure.SHARE, 2), (StoreFailure.CLOSED, 0)]
)
async def test_without_redis_each_gateway_goes_by_what_it_counts_itself(
    two: MakeTwo, books: Books, policy: StoreFailure, each: int
) -> None:
    up = Held()
    t = await two(up, tier={"concurrent": 4}, on_store_failure=policy)
    await until(lambda: all(g.gateway.limiter.processes == 2 for g in t.gateways))
    for gateway in t.gateways:
        gateway.gateway.limiter.knows_counters = False
        gateway.is_reporter_asleep = True
    for which in (0, 1):
        for _ in range(each):
            await begin(t, up, which)
        assert (await t.turn(which)).status in (429, 503)
    await until(lambda: all(not g.gateway.limiter.settlements.unsettled for g in t.gateways))
    assert sum((await books.places()).values()) == 2 * each  # they are told of, once Redis is there
    while up.waiting:
        await up.answer()
    await t.settled()
    assert await books.places() == {}


async def test_in_shadow_mode_it_is_only_said(two: MakeTwo, books: Books) -> None:
    up = Held()
    t = await two(up, tier={"concurrent": 1, "is_shadow": True})
    await begin(t, up, 0)
    second = await begin(t, up, 1)
    await up.answer()
    await up.answer()
    assert (await read_answer(second)).headers["x-tollgate-would-refuse"] == "concurrent"
    await t.settled()
    assert await books.places() == {}


async def test_a_reservation_says_where_it_has_a_place(two: MakeTwo, books: Books) -> None:
    up = Held()
    t = await two(up, tier={"concurrent": 3}, concurrent_requests=7)
    await begin(t, up, 0)
    [held] = await books.reservations()
    assert len(held["places"]) == 2
    assert orjson.dumps(held)
    assert sorted((await books.places()).values()) == [1, 1]
    assert all(key.startswith(tuple(f"tg:{{{s:02d}}}:places:" for s in range(SHARDS))) for key in held["places"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", [StoreFailure.CLOSED, StoreFailure.OPEN])
async def test_whatever_becomes_of_redis_every_place_is_left(
    two: MakeTwo, books: Books, redis_client: redis.asyncio.Redis, policy: StoreFailure, seed: int
) -> None:
    crowd, dice = Crowd(), random.Random(seed)
    t = await two(crowd, tier={"concurrent": 3, "quotas": {"requests": None}}, on_store_failure=policy, retries=0)
    pipes = [gateway.gateway.limiter.redis for gateway in t.gateways]
    seen = Counter[int]()

    async def user() -> None:
        for _ in range(25):
            await asyncio.sleep(dice.random() * 0.03)  # a refusal takes no time: the trouble is to find others too
            kind = dice.choice(["plain", "stream", "broken", "abort"])
            async with await connect(*t.gateways[dice.randrange(2)].address) as client:
                await client.send(request(f"/api/{kind}", t.key))
                if kind == "abort":
                    await asyncio.sleep(dice.random() * 0.004)
                    drop(client)
                    continue
                try:
                    seen[(await read_answer(client)).status] += 1
                except EOFError:
                    seen[0] += 1

    async def trouble() -> None:
        await until(lambda: crowd.served > 3)
        for _ in range(12):
            await asyncio.sleep(dice.random() * 0.03)
            if dice.random() < 0.5:
                await redis_client.execute_command("CLIENT", "PAUSE", str(dice.choice([5, 150])), "ALL")
            else:
                pipe = dice.choice(pipes)
                if pipe._transport is not None:
                    pipe._flush()
                    pipe._transport.abort()

    await asyncio.gather(trouble(), *(user() for _ in range(8)))
    if policy is StoreFailure.CLOSED:
        assert crowd.most <= 3

    async def all_is_left() -> bool:
        return not await books.places() and not await books.reservations()

    for gateway in t.gateways:
        await until(lambda gateway=gateway: gateway.gateway.limiter.is_current, within_s=10)
    await t.settled()
    await until(all_is_left)
    assert sum(seen.values()) > 50
