"""Routes that go on while Redis is away: what they admit, what they refuse, and that all of it is counted in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ledger.specs import StoreFailure
from tests.gateway.faults import Relay
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import Books, Catalogue, InProcessGateway, until
from tests.support.raw import Peer, Upstream, connect


class Cut:
    """A gateway whose Redis can be taken away; one client, one upstream."""

    def __init__(self, inside: InProcessGateway, relay: Relay, client: Peer, key: str, upstream: Upstream) -> None:
        self.inside, self.relay, self.client, self.key, self.upstream = inside, relay, client, key, upstream

    async def statuses(self, count: int) -> list[int]:
        return [(await ask(self.client, request("/api/x", self.key))).status for _ in range(count)]

    async def away(self) -> None:
        self.relay.is_away = True
        await self.relay.cut()
        await until(lambda: not self.inside.gateway.limiter.redis.available)

    async def back(self) -> None:
        self.relay.is_away = False
        await self.inside.ready()
        await self.inside.settled()


@asynccontextmanager
async def cut(
    policy: StoreFailure, catalogue: Catalogue, postgres_url: str, redis_url: str, **tier: Any
) -> AsyncIterator[Cut]:
    async with (
        Upstream(answering(ok(b"served"))) as upstream,
        Relay(redis_url) as relay,
        InProcessGateway(postgres_url, relay.url) as inside,
        await connect(*inside.address) as client,
    ):
        plan = await catalogue.tier("free", default=True, **tier)
        key = await catalogue.key("ck", customer=await catalogue.customer("ada", tier=plan))
        await catalogue.route("api", "/api/*", [(upstream.host, upstream.port)], on_store_failure=policy)
        await inside.ready()
        await inside.caught_up(catalogue.pg)
        yield Cut(inside, relay, client, key, upstream)


async def test_open_admits_everything_and_counts_it_when_redis_is_back(
    catalogue: Catalogue, postgres_url: str, redis_url: str, books: Books
) -> None:
    limits = {"per_minute": 5, "quotas": {"requests": 100}}
    async with cut(StoreFailure.OPEN, catalogue, postgres_url, redis_url, **limits) as it:
        assert await it.statuses(2) == [200, 200]
        await it.away()
        assert await it.statuses(8) == [200] * 8
        await it.back()
        assert await books.quotas() == {"requests": 10}
        assert await it.statuses(1) == [429]
        ids = [event["id"] for event in await books.events()]
        assert len(set(ids)) == 10  # one whose settlement was on its way when the connection broke may be there twice
        assert await books.reservations() == []


@pytest.mark.parametrize("processes", [1, 2])
async def test_share_admits_this_process_s_part_of_what_was_left(
    catalogue: Catalogue, postgres_url: str, redis_url: str, books: Books, processes: int
) -> None:
    limits = {"per_minute": 10, "quotas": {"requests": 9}}
    async with cut(StoreFailure.SHARE, catalogue, postgres_url, redis_url, **limits) as it:
        assert await it.statuses(3) == [200] * 3
        await until(lambda: it.inside.gateway.limiter.processes)
        it.inside.gateway.limiter.processes = processes
        await it.away()
        share = 6 // processes  # of the quota; of the minute it would be more
        assert await it.statuses(7) == [200] * share + [503] * (7 - share)
        await it.back()
        assert await books.quotas() == {"requests": 3 + share}
        assert await it.statuses(6 - share + 1) == [200] * (6 - share) + [429]


async def test_a_process_that_never_heard_how_many_there_are_has_no_share(
    catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    async with cut(StoreFailure.SHARE, catalogue, postgres_url, redis_url) as it:
        await until(lambda: it.inside.gateway.limiter.processes)
        await it.away()
        it.inside.gateway.limiter.processes = 0
        assert await it.statuses(1) == [503]


async def test_closed_refuses_and_without_a_spool_so_does_every_policy(
    catalogue: Catalogue, postgres_url: str, redis_url: str, books: Books
) -> None:
    async with cut(StoreFailure.CLOSED, catalogue, postgres_url, redis_url) as it:
        await it.away()
        assert await it.statuses(2) == [503, 503]
        await it.back()
        assert await books.events() == []
        assert await it.statuses(1) == [200]


async def test_a_request_that_cannot_be_written_down_is_refused(
    catalogue: Catalogue, postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cut(StoreFailure.OPEN, catalogue, postgres_url, redis_url) as it:
        await it.statuses(1)
        await it.away()
        it.inside.gateway.limiter.settlements.spool = None
        assert await it.statuses(1) == [503]
    assert len(it.upstream.peers) <= 1


async def test_a_slow_redis_costs_one_deadline_and_the_policy_goes_on(
    catalogue: Catalogue, postgres_url: str, redis_url: str, books: Books
) -> None:
    async with cut(StoreFailure.OPEN, catalogue, postgres_url, redis_url, quotas={"requests": 100}) as it:
        assert await it.statuses(1) == [200]
        it.relay.delay_s = 0.15
        assert await it.statuses(20) == [200] * 20
        it.relay.delay_s = 0.0
        await it.back()
        await until(lambda: it.inside.gateway.limiter.settlements.unsettled == 0)
        assert await books.quotas() == {"requests": 21}
        assert len({event["id"] for event in await books.events()}) == 21
        assert await books.reservations() == []
        assert it.inside.gateway.limiter.admitted_alone >= 18
