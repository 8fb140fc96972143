"""What Redis does not take goes to disk and is told to Redis later, once, whoever is killed in between."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis.asyncio

from gateway.exchange import Exchange
from gateway.limits.limiter import Limiter
from gateway.limits.plan import Plan
from gateway.spool.disk import Spool
from ledger import names
from ledger.ids import uuid7_digits
from tests.gateway.faults import Relay
from tests.gateway.limits.test_limiter import FIELDS, LINE, SHARD, Asked, Client, current, limiter_on, settled
from tests.gateway.nouns import tier
from tests.support.gateway import Books, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def made() -> Plan:
    """At most 5 a minute, 100 a month, each request holding 2."""
    return current(tier(5, requests=100), meters={"requests": 2})


@asynccontextmanager
async def spooling(url: str, root: Path, name: str = "gw-1", **options: Any) -> AsyncIterator[Limiter]:
    spool = Spool(root, name, max_bytes=options.pop("max_bytes", 1 << 20), fsync="off")
    try:
        async with limiter_on(url, spool=spool, **options) as limiter:
            yield limiter
    finally:
        spool.close()


def request() -> Exchange:
    now_ms = time.time_ns() // 1_000_000
    return Exchange(Client(), LINE, FIELDS, uuid7_digits(now_ms), now_ms, 1)  # type: ignore[arg-type]


def event_of(ex: Exchange) -> bytes:
    return b'{"id":"%b","at":%d}' % (ex.id, ex.at_ms)


async def away(relay: Relay, limiter: Limiter) -> None:
    relay.is_away = True
    await relay.cut()
    await until(lambda: not limiter.redis.available)


# -- settlements of requests that Redis admitted


async def test_a_settlement_goes_to_disk_while_redis_is_away_and_to_redis_after(
    redis_url: str, books: Books, made: Plan, root: Path
) -> None:
    async with Relay(redis_url) as relay, spooling(relay.url, root) as limiter:
        charged, uncharged = Asked(limiter, made), Asked(limiter, made)
        await charged.answer()
        await uncharged.answer()
        await away(relay, limiter)
        limiter.settle(charged.ex, charged.event(), is_charged=True)
        limiter.settle(uncharged.ex, uncharged.event(), is_charged=False)
        assert limiter.settlements.spool is not None
        await until(lambda: limiter.settlements.spool.entries == 2)
        assert await limiter.settlements.drain(5.0) == 0  # nobody waits for what is safe
        relay.is_away = False
        await settled(limiter)
        assert await books.quotas() == {"requests": 2}
        assert await books.reservations() == []
        assert [e["id"] for e in await books.events()] == [a.ex.id.decode() for a in (charged, uncharged)]
    assert list(root.iterdir()) == []


async def test_what_redis_refuses_goes_to_disk(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, made: Plan, root: Path
) -> None:
    await redis_client.set(names.usage_stream(SHARD), "not a stream")
    async with spooling(redis_url, root) as limiter:
        asked = Asked(limiter, made)
        await asked.answer()
        limiter.settle(asked.ex, asked.event(), is_charged=True)
        assert limiter.settlements.spool is not None
        await until(lambda: limiter.settlements.spool.entries == 1)
        await redis_client.delete(names.usage_stream(SHARD))
        await settled(limiter)
        assert [e["id"] for e in await books.events()] == [asked.ex.id.decode()]


async def test_a_redis_that_is_full_costs_nothing_that_was_served(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, made: Plan, root: Path
) -> None:
    async with spooling(redis_url, root) as limiter:
        asked = Asked(limiter, made)
        await asked.answer()
        await redis_client.config_set("maxmemory", "1")
        try:
            assert await Asked(limiter, made).answer() is None  # no verdict: the route's policy rules
            limiter.settle(asked.ex, asked.event(), is_charged=True)
            ex = request()
            assert limiter.hold(ex, made)
            limiter.settle(ex, event_of(ex), is_charged=True)
            await asyncio.sleep(0.05)
        finally:
            await redis_client.config_set("maxmemory", "0")
        await settled(limiter)
        assert sorted(e["id"] for e in await books.events()) == sorted((asked.ex.id.decode(), ex.id.decode()))
        assert await books.quotas() == {"requests": 4}
        assert await books.reservations() == []


# -- requests that were admitted without Redis


async def test_a_request_admitted_without_redis_counts_in_windows_and_quotas_once_redis_is_back(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, made: Plan, root: Path
) -> None:
    async with Relay(redis_url) as relay, spooling(relay.url, root) as limiter:
        await away(relay, limiter)
        served, unserved = request(), request()
        for ex, is_charged in ((served, True), (unserved, False)):
            assert limiter.hold(ex, made)
            limiter.settle(ex, event_of(ex), is_charged=is_charged)
        relay.is_away = False
        await settled(limiter)
        assert await books.quotas() == {"requests": 2}
        assert await redis_client.lrange(made.windows[0].key, 0, -1) == [b"%d" % e.at_ms for e in (served, unserved)]
        assert await redis_client.pttl(made.windows[0].key) > 60_000
        assert await redis_client.ttl(made.quotas[0].key) > 0
        assert await books.reservations() == []
        assert (await Asked(limiter, made).answer())[:3:2] == [0, 3]  # admitted as the third of its minute


async def test_the_order_of_a_window_survives_late_comers(
    redis_url: str, redis_client: redis.asyncio.Redis, made: Plan, root: Path
) -> None:
    async with Relay(redis_url) as relay, spooling(relay.url, root) as limiter:
        await away(relay, limiter)
        late, old = request(), request()
        late.at_ms -= 30_000
        old.at_ms -= 61_000
        for ex in (old, late):
            assert limiter.hold(ex, made)
            limiter.settle(ex, event_of(ex), is_charged=True)
        newer = request().at_ms - 10_000
        await redis_client.rpush(made.windows[0].key, newer)
        relay.is_away = False
        await settled(limiter)
        counted = [int(t) for t in await redis_client.lrange(made.windows[0].key, 0, -1)]
        assert counted == [newer, newer, newer][: len(counted)]
        assert 2 <= len(counted) <= 3


async def test_a_hold_whose_gateway_died_is_a_reservation_of_its_name(
    redis_url: str, books: Books, made: Plan, root: Path
) -> None:
    """The sweeper makes it an orphaned event."""
    async with Relay(redis_url) as relay:
        async with spooling(relay.url, root) as limiter:
            await away(relay, limiter)
            ex = request()
            assert limiter.hold(ex, made)
        relay.is_away = False
        async with spooling(redis_url, root, "gw-2") as limiter:
            await until(lambda: limiter.settlements.spool is not None and limiter.settlements.spool.is_empty)
            [held] = await books.reservations()
            assert (held["id"], held["gateway"]) == (ex.id.decode(), "gw-1")
            assert await books.quotas() == {"requests": 2}


async def test_a_verdict_that_comes_after_all_is_not_counted_twice(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, made: Plan, root: Path
) -> None:
    async with spooling(redis_url, root) as limiter:
        await redis_client.client_pause(250)
        asked = Asked(limiter, made)
        assert await asked.answer() is None
        assert limiter.hold(asked.ex, made)
        limiter.settle(asked.ex, asked.event(), is_charged=True)
        await settled(limiter)
        assert await books.quotas() == {"requests": 2}
        assert await redis_client.llen(made.windows[0].key) == 1
        assert len(await books.events()) == 1
        assert await books.reservations() == []


# -- replies get lost, processes die


async def test_a_replay_whose_reply_was_lost_is_repeated_and_counts_once(
    redis_url: str, books: Books, made: Plan, root: Path
) -> None:
    async with Relay(redis_url) as relay, spooling(relay.url, root, deadline=1.0) as limiter:
        await away(relay, limiter)
        held = [request() for _ in range(5)]
        for ex in held:
            assert limiter.hold(ex, made)
            limiter.settle(ex, event_of(ex), is_charged=True)
        assert limiter.settlements.spool is not None
        await until(lambda: limiter.settlements.spool.entries == 10)
        relay.is_away = False
        await until(lambda: limiter.redis.available)
        relay.swallows_replies = True
        await until(lambda: relay.replies_swallowed)
        relay.swallows_replies = False
        await relay.cut()
        await settled(limiter)
        assert await books.quotas() == {"requests": 10}
        assert [e["id"] for e in await books.events()] == [
            ex.id.decode() for ex in held
        ]  # not even twice on the stream
        assert await books.reservations() == []


CHILD = """
import asyncio, sys
from pathlib import Path
from gateway.limits.limiter import SCRIPTS, Limiter
from gateway.spool.disk import Spool
from gateway.store.redis import RedisPipe
from tests.gateway.limits.test_spooling import current, event_of, request, tier

async def main():
    spool = Spool(Path(sys.argv[2]), "victim", max_bytes=1 << 30, fsync="off", segment_bytes=8192)
    pipe = RedisPipe(sys.argv[1], SCRIPTS, deadline=1.0)
    made = current(tier(None, requests=None))
    limiter = Limiter(pipe, spool=spool)
    for n in range(3000):
        ex = request()
        assert limiter.hold(ex, made)
        limiter.settle(ex, event_of(ex), is_charged=True)
        print(ex.id.decode(), flush=True)
    await asyncio.sleep(0.05)
    print("replaying", flush=True)
    pipe.start()
    await asyncio.sleep(30)

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1700, 3001], ids=["while writing", "while replaying"])
async def test_killed_at_any_moment_every_request_is_counted_exactly_once(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, root: Path, lines: int
) -> None:
    repository = Path(__file__).resolve().parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, redis_url, str(root)], stdout=subprocess.PIPE, cwd=repository
    )
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(lines)]
    if lines > 3000:
        while not await redis_client.xlen(names.usage_stream(SHARD)):
            await asyncio.sleep(0)
    child.send_signal(signal.SIGKILL)
    told += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    assert 0 < await redis_client.xlen(names.usage_stream(SHARD)) < 3000 if lines > 3000 else True
    async with spooling(redis_url, root, "next") as limiter:
        await until(lambda: limiter.settlements.spool is not None and limiter.settlements.spool.is_empty, within_s=20)
    events = [event["id"] for event in await books.events()]
    orphans = [held["id"] for held in await books.reservations()]
    ids = [line.decode().strip() for line in told if len(line) == 33]
    assert len(events) == len(set(events))
    assert set(ids) <= set(events) | set(orphans)
    assert await books.quotas() == {"requests": len(set(events) | set(orphans))}
    assert [p for p in root.iterdir() if p.name != "next"] == []


# -- bounds


async def test_a_full_spool_takes_no_new_request_but_loses_none(
    redis_url: str, books: Books, made: Plan, root: Path
) -> None:
    async with Relay(redis_url) as relay, spooling(relay.url, root, max_bytes=2_000) as limiter:
        await away(relay, limiter)
        held = []
        while limiter.hold(ex := request(), made):
            held.append(ex)
        assert 1 <= len(held) <= 5
        assert limiter.settlements.is_full
        for ex in held:
            limiter.settle(ex, event_of(ex), is_charged=True)
        relay.is_away = False
        await settled(limiter)
        assert not limiter.settlements.is_full
        assert len(await books.events()) == len(held)


async def test_by_setting_a_full_spool_loses_usage_and_says_how_much(
    redis_url: str, books: Books, made: Plan, root: Path
) -> None:
    async with Relay(redis_url) as relay, spooling(relay.url, root, max_bytes=1, loses_when_full=True) as limiter:
        asked = [Asked(limiter, made) for _ in range(2)]
        for one in asked:
            await one.answer()
        await away(relay, limiter)
        limiter.settle(asked[0].ex, asked[0].event(), is_charged=True)
        await until(lambda: limiter.settlements.spool is not None and limiter.settlements.spool.entries)
        limiter.settle(asked[1].ex, asked[1].event(), is_charged=True)
        await until(lambda: limiter.settlements.lost == 1)
        assert not limiter.settlements.is_full
        relay.is_away = False
        await settled(limiter)
        assert [e["id"] for e in await books.events()] == [asked[0].ex.id.decode()]


async def test_a_record_of_another_kind_is_put_aside_and_the_others_go_on(
    redis_url: str, books: Books, made: Plan, root: Path
) -> None:
    async with Relay(redis_url) as relay, spooling(relay.url, root) as limiter:
        await away(relay, limiter)
        ex = request()
        assert limiter.settlements.spool is not None
        limiter.settlements.spool.append([b"{}", orjson.dumps({"kind": "hold"})])
        assert limiter.hold(ex, made)
        limiter.settle(ex, event_of(ex), is_charged=True)
        relay.is_away = False
        await settled(limiter)
        assert len(await books.events()) == 1
    assert (root / "unreadable").read_bytes() == b'{}\n{"kind":"hold"}\n'
