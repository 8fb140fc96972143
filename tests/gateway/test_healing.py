"""Redis loses its counters: they are rebuilt to the exact figure, and nothing is over-admitted meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from pydantic import SecretStr

from config.settings import Settings, WorkerSettings
from ledger import names
from ledger.corrections import correct
from ledger.heal import Healer
from ledger.specs import StoreFailure
from tests.gateway.test_caps import Held
from tests.gateway.test_parts import ASKED, ECHO, Echo
from tests.gateway.test_websocket import HANDSHAKE
from tests.gateway.wire import answering, ask, ok, read_answer, read_request, request
from tests.support.gateway import SHARDS, Books, Catalogue, InProcessGateway, until
from tests.support.raw import Peer, Upstream, connect
from tollgate import worker

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Watched(Healer):
    """The worker's healer, to see what it knows."""

    last: Watched

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Watched.last = self


@asynccontextmanager
async def working(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A worker beside, as `tollgate worker` runs it."""
    monkeypatch.setattr(worker, "HEAL_S", 0.02)
    monkeypatch.setattr(worker, "Healer", Watched)
    monkeypatch.setattr("ledger.heal._GRACE_S", 0.3)
    settings = Settings(
        postgres_url=SecretStr(postgres_url),
        redis_url=SecretStr(redis_url),
        redis_shards=SHARDS,
        worker=WorkerSettings(metrics_port=0),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(settings, stop), name="worker")
    try:
        yield
        assert not task.done()
    finally:
        stop.set()
        await task


class Scene:
    """A gateway with ada's key (five a minute where not said otherwise), a worker, and Redis to be emptied."""

    def __init__(
        self, inside: InProcessGateway, keys: dict[str, str], store: redis.asyncio.Redis, books: Books
    ) -> None:
        self.inside, self.keys, self.redis, self.books = inside, keys, store, books
        self.clients: list[Peer] = []

    async def statuses(self, count: int, who: str = "ada", path: str = "/api/x") -> list[int]:
        async with await connect(*self.inside.address) as client:
            return [(await ask(client, request(path, self.keys[who]))).status for _ in range(count)]

    async def is_healed(self) -> bool:
        return all(await self.redis.mget([names.epoch(shard) for shard in range(SHARDS)]))

    async def healed(self) -> float:
        began = time.monotonic()
        await until(self.is_healed, within_s=20)
        await until(lambda: self.inside.gateway.limiter.knows_counters)
        return time.monotonic() - began

    async def stored(self, pg: asyncpg.Connection, count: int) -> None:
        async def enough() -> bool:
            found: int = await pg.fetchval("SELECT count(*) FROM usage_events")
            return found == count

        await until(enough)

    async def counters(self) -> dict[str, int]:
        return {
            key.decode().partition("quota:")[2]: int(await self.redis.get(key))
            async for key in self.redis.scan_iter("tg:*:quota:*")
        }


MakeScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def scene(
    catalogue: Catalogue,
    postgres_url: str,
    redis_url: str,
    redis_client: redis.asyncio.Redis,
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[MakeScene]:
    Watched.last = None  # type: ignore[assignment]
    async with AsyncExitStack() as stack:

        async def make(script: Any = None, *, policy: StoreFailure = StoreFailure.CLOSED, **tier: Any) -> Scene:
            upstream = await stack.enter_async_context(Upstream(script or answering(ok(b"served"))))
            plan = await catalogue.tier("free", default=True, **tier)
            ada = await catalogue.customer("ada", tier=plan, anchor=datetime(2026, 1, 31, 10, 20, 30, tzinfo=UTC))
            bob = await catalogue.customer("bob")
            keys = {"ada": await catalogue.key("ck", customer=ada), "bob": await catalogue.key("ck", customer=bob)}
            keys["tight"] = await catalogue.key("ck", customer=bob, requests_per_minute=3)
            keys["nobody"] = await catalogue.key("sk")
            await catalogue.route("api", "/api/*", [(upstream.host, upstream.port)], on_store_failure=policy)
            await catalogue.route(
                "few", "/few/*", [(upstream.host, upstream.port)], requests_per_minute=4, on_store_failure=policy
            )
            inside = await stack.enter_async_context(InProcessGateway(postgres_url, redis_url))
            await inside.ready()
            await inside.caught_up(catalogue.pg)
            await stack.enter_async_context(working(postgres_url, redis_url, monkeypatch))
            await until(lambda: Watched.last and "gateway-under-test" in Watched.last._known)
            return Scene(inside, keys, redis_client, books)

        yield make


async def test_what_was_used_is_known_again_after_flushall(scene: MakeScene, pg: asyncpg.Connection) -> None:
    it = await scene(quotas={"requests": 10})
    assert await it.statuses(7, "ada") == [200] * 7
    assert await it.statuses(4, "bob") == [200] * 4
    assert await it.statuses(2, "nobody") == [200] * 2
    await it.stored(pg, 13)
    before = await it.counters()
    assert sorted(before.values()) == [2, 4, 7]
    await it.redis.flushall()
    assert await it.statuses(2) == [503, 503]
    assert await it.healed() < 10
    assert await it.counters() == before
    assert await it.statuses(5, "ada") == [200] * 3 + [429] * 2
    assert await it.statuses(7, "bob") == [200] * 6 + [429]
    assert all([await it.redis.ttl(key) > 0 for key in await it.redis.keys("tg:*:quota:*")])


async def test_minutes_are_known_again_too(scene: MakeScene, pg: asyncpg.Connection) -> None:
    it = await scene(per_minute=5)
    assert await it.statuses(4, "ada") == [200] * 4
    assert await it.statuses(2, "tight") == [200] * 2
    assert await it.statuses(3, "nobody", "/few/x") == [200] * 3
    await it.stored(pg, 9)
    await it.redis.flushall()
    await it.healed()
    assert await it.statuses(2, "ada") == [200, 429]
    assert await it.statuses(2, "tight") == [200, 429]
    assert await it.statuses(2, "nobody", "/few/x") == [200, 429]


async def test_only_admissions_fill_the_minute_again(scene: MakeScene, pg: asyncpg.Connection) -> None:
    """Neither the correction of an event, which is an event of the same moment, nor a further part that is under way."""
    it = await scene(Echo(), per_minute=5, quotas={"messages_in": 12})
    async with await connect(*it.inside.address) as client:
        await client.send(request("/api/ws", it.keys["ada"], *HANDSHAKE))
        assert (await read_answer(client)).status == 101
        [exchange] = [c.exchange for c in it.inside.door.connections if c.exchange is not None]
        assert exchange.parts.cut()
        await until(lambda: exchange.parts._before is None)
        await it.stored(pg, 1)
        first = await pg.fetchrow("SELECT id, project_id FROM usage_events")
        await pg.execute("UPDATE usage_events SET meters = '{\"requests\": 2}'")
        async with pg.transaction():
            await correct(pg, first["project_id"], "live", first["id"], None, actor="ann", reason="a test")
        await it.redis.flushall()
        await it.healed()
        shard = names.shard_of(first["project_id"], exchange.plan.customer.id, SHARDS)
        assert await it.redis.llen(names.window(shard, exchange.plan.customer.id)) == 1


async def test_what_is_under_way_when_redis_loses_it_is_held_again_and_settled_once(
    scene: MakeScene, pg: asyncpg.Connection
) -> None:
    gate = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await read_request(peer)
        await gate.wait()
        await peer.send(ok(b"at last"))

    it = await scene(slow, quotas={"requests": 5})
    waiting = [asyncio.create_task(it.statuses(1)) for _ in range(3)]

    async def all_held() -> bool:
        return len(await it.books.reservations()) == 3

    await until(all_held)
    await it.redis.flushall()
    await it.healed()
    assert await it.books.quotas() == {"requests": 3}
    assert len(await it.books.reservations()) == 3
    gate.set()
    assert [await task for task in waiting] == [[200]] * 3
    await it.inside.settled()
    await it.stored(pg, 3)
    assert await it.books.quotas() == {"requests": 3}
    assert await it.books.reservations() == []
    assert await it.statuses(3) == [200, 200, 429]


async def test_what_is_under_way_is_held_again_each_time_that_redis_loses_it(
    scene: MakeScene, pg: asyncpg.Connection
) -> None:
    """Long after the first time, when nobody would repeat by chance what was told then."""
    gate = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await read_request(peer)
        await gate.wait()
        await peer.send(ok(b"at last"))

    it = await scene(slow, quotas={"requests": 5})
    waiting = [asyncio.create_task(it.statuses(1)) for _ in range(2)]

    async def all_held() -> bool:
        return len(await it.books.reservations()) == 2

    await until(all_held)
    for _ in range(3):
        it.inside.gateway.limiter.settlements._tail.clear()
        it.inside.gateway.limiter.settlements._tail_size = 0
        await it.redis.flushall()
        await it.healed()
        assert await it.books.quotas() == {"requests": 2}
        assert len(await it.books.reservations()) == 2
    gate.set()
    assert [await task for task in waiting] == [[200]] * 2
    await it.inside.settled()
    await it.stored(pg, 2)
    assert await it.books.quotas() == {"requests": 2}
    assert await it.books.reservations() == []


async def test_usage_that_was_acknowledged_but_not_yet_stored_is_sent_again(
    scene: MakeScene, pg: asyncpg.Connection, postgres_url: str
) -> None:
    it = await scene(quotas={"requests": 10})
    assert await it.statuses(1) == [200]
    await it.stored(pg, 1)
    blocker = await asyncpg.connect(postgres_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE usage_events IN EXCLUSIVE MODE")  # the worker cannot store
        assert await it.statuses(6) == [200] * 6
        await it.inside.settled()
        await it.redis.flushall()
    await blocker.close()
    await it.healed()
    await it.stored(pg, 7)
    assert list((await it.counters()).values()) == [7]
    assert await it.statuses(4) == [200] * 3 + [429]


async def test_by_share_requests_go_on_while_counters_are_rebuilt_and_are_in_them(
    scene: MakeScene, pg: asyncpg.Connection
) -> None:
    it = await scene(policy=StoreFailure.SHARE, quotas={"requests": 40})
    assert await it.statuses(4) == [200] * 4
    await it.stored(pg, 4)
    await it.redis.flushall()
    served = 0
    while not await it.is_healed():
        statuses = await it.statuses(1)
        served += statuses.count(200)
    assert served > 0
    served += (await it.statuses(50)).count(200)
    assert 4 + served == 40
    await it.inside.settled()
    await it.stored(pg, 40)
    assert await it.books.quotas() == {"requests": 40}


async def test_a_redis_that_is_another_process_than_before_is_not_believed(
    scene: MakeScene, pg: asyncpg.Connection
) -> None:
    """A restart may lose what was acknowledged last: the counter is wrong, and there."""
    it = await scene(quotas={"requests": 10})
    assert await it.statuses(7) == [200] * 7
    await it.stored(pg, 7)
    [key] = await it.redis.keys("tg:*:quota:*")
    await it.redis.set(key, 2)
    stale = key.replace(b"requests", b"tokens")
    await it.redis.set(stale, 99)
    await it.redis.set(names.RUN, "another process")
    await until(lambda: not it.inside.gateway.limiter.knows_counters)
    await it.healed()
    assert await it.redis.get(key) == b"7"
    assert await it.redis.get(stale) is None
    assert await it.statuses(4) == [200] * 3 + [429]


async def test_a_gateway_that_is_cut_off_is_waited_for_and_then_given_up(
    scene: MakeScene, pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.heal._ALIVE_S", 4.0)
    it = await scene(quotas={"requests": 10})
    await it.redis.zadd(names.GATEWAYS, {"gone": time.time() + 2})
    await until(lambda: "gone" in Watched.last._known)
    await it.redis.flushall()
    began = time.monotonic()
    await it.healed()
    assert 1.5 < time.monotonic() - began < 12


async def test_a_change_of_tier_keeps_what_was_used_and_its_limit_applies_at_once(
    scene: MakeScene, catalogue: Catalogue, pg: asyncpg.Connection
) -> None:
    it = await scene(quotas={"requests": 6})
    assert await it.statuses(5) == [200] * 5
    for quota, expected in ((8, [200, 200, 200, 429]), (3, [429]), (9, [200, 429])):
        tier = await catalogue.tier(f"tier-of-{quota}", quotas={"requests": quota})
        await pg.execute("UPDATE subscriptions SET tier_id = $1", tier)
        await it.inside.caught_up(pg)
        assert await it.statuses(len(expected)) == expected
    await it.inside.settled()
    await it.stored(pg, 9)
    await it.redis.flushall()
    await it.healed()
    assert await it.statuses(1) == [429]


async def test_a_websocket_in_parts_keeps_its_limit_through_it_all(scene: MakeScene, pg: asyncpg.Connection) -> None:
    it = await scene(Echo(), quotas={"messages_in": 12})
    async with await connect(*it.inside.address) as client:
        await client.send(request("/api/ws", it.keys["ada"], *HANDSHAKE))
        assert (await read_answer(client)).status == 101
        [exchange] = [c.exchange for c in it.inside.door.connections if c.exchange is not None]

        async def ask_for(count: int) -> None:
            for _ in range(count):
                await client.send(ASKED)
                assert await client.read_exactly(len(ECHO)) == ECHO

        await ask_for(4)
        assert exchange.parts.cut()
        await until(lambda: exchange.parts._before is None)
        await ask_for(2)
        await it.redis.flushall()
        assert exchange.parts.cut() or not it.inside.gateway.limiter.knows_counters  # there is nothing to renew
        await it.healed()
        await until(lambda: exchange.parts._before is None)
        assert (await it.counters())[
            "live:" + exchange.plan.customer.id + ":messages_in:" + str(exchange.plan.period_start)
        ] <= 12
        await ask_for(6)
        await client.send(ASKED)
        assert (await client.read_to_end()).endswith(b"messages_in")
    await it.inside.settled()

    async def counted() -> bool:
        found = await pg.fetchval("SELECT sum((meters ->> 'messages_in')::int) FROM usage_events")
        return int(found or 0) == 12

    await until(counted)
    [used] = [value for key, value in (await it.counters()).items() if ":messages_in:" in key]
    assert used == 12
    assert await it.books.reservations() == []


async def test_on_a_new_connection_nothing_is_believed_before_it_was_asked(
    scene: MakeScene, redis_client: redis.asyncio.Redis
) -> None:
    it = await scene(quotas={"requests": 10})
    assert await it.statuses(1) == [200]
    limiter = it.inside.gateway.limiter
    it.inside.is_reporter_asleep = True
    await redis_client.client_kill_filter(_type="normal", skipme=True)
    await until(lambda: not limiter.redis.available)
    await until(lambda: limiter.redis.available)
    assert not limiter.knows_counters
    assert await it.statuses(1) == [503]
    it.inside.reporter.look()
    await until(lambda: limiter.knows_counters)
    assert await it.statuses(1) == [200]


async def test_places_that_redis_loses_are_taken_again(scene: MakeScene) -> None:
    up = Held()
    it = await scene(up, concurrent=2)
    async with await connect(*it.inside.address) as first, await connect(*it.inside.address) as second:
        for client in (first, second):
            await client.send(request("/api/x", it.keys["ada"]))
        await until(lambda: len(up.waiting) == 2)
        await it.redis.flushall()
        assert await it.statuses(1, "bob") == [503]
        await it.healed()
        assert sum((await it.books.places()).values()) == 2
        await up.answer()
        assert (await read_answer(first)).status == 200
        await first.send(request("/api/x", it.keys["ada"]))
        await until(lambda: len(up.waiting) == 2)
        assert await it.statuses(1) == [429]
        await up.answer()
        await up.answer()
        await it.inside.settled()
        assert await it.books.places() == {}


async def test_the_place_of_a_long_websocket_is_taken_again(scene: MakeScene) -> None:
    it = await scene(Echo(), concurrent=1, quotas={"messages_in": 100})
    async with await connect(*it.inside.address) as client:
        await client.send(request("/api/ws", it.keys["ada"], *HANDSHAKE))
        assert (await read_answer(client)).status == 101
        [exchange] = [c.exchange for c in it.inside.door.connections if c.exchange is not None]
        assert exchange.parts.cut()
        await until(lambda: exchange.parts._before is None)
        await it.redis.flushall()
        assert await it.statuses(1, "bob") == [503]
        await it.healed()
        assert list((await it.books.places()).values()) == [1]
        assert exchange.parts.cut()
        await until(lambda: exchange.parts._before is None)
        assert list((await it.books.places()).values()) == [1]
    await it.inside.settled()
    assert await it.books.places() == {}
