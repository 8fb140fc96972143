"""Admission and settlement through everything that can happen between a gateway and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import redis.asyncio

from gateway.exchange import ClientGone, Exchange, suspend
from gateway.http1.fields import parse_fields
from gateway.http1.request import parse_request_line
from gateway.limits.limiter import SCRIPTS, Limiter
from gateway.limits.plan import Plan
from gateway.store.redis import RedisPipe
from ledger import names
from ledger.ids import uuid7_digits
from tests.gateway.faults import Relay
from tests.gateway.nouns import plan, tier
from tests.support.gateway import Books, until

LINE = parse_request_line(b"GET / HTTP/1.1", 100)
FIELDS = parse_fields(b"\r\n", 1)
SHARD = names.shard_of("prj_acme", "cus_ada", 2)


class Client:
    """What an exchange needs of a connection here."""

    def exchange_done(self, _: Exchange) -> None: ...


@asynccontextmanager
async def limiter_on(url: str, **options: Any) -> AsyncIterator[Limiter]:
    pipe = RedisPipe(url, SCRIPTS, deadline=options.pop("deadline", 0.1), dead_after=0.5)
    limiter = Limiter(pipe, **options)
    pipe.start()
    try:
        await until(lambda: pipe.available)
        yield limiter
    finally:
        await pipe.close()


class Asked:
    """One request's admission: `reply` is the script's list, None for no verdict, or "waiting"."""

    def __init__(self, limiter: Limiter, made: Plan) -> None:
        self.ex = Exchange(Client(), LINE, FIELDS, uuid7_digits(1), 1, 1)  # type: ignore[arg-type]
        self.reply: Any = "waiting"
        self.was_sent = False
        self.ex.run(self._life(limiter, made))

    async def _life(self, limiter: Limiter, made: Plan) -> None:
        self.was_sent = limiter.ask(self.ex, made)
        if self.was_sent:
            self.reply = await suspend()

    async def answer(self) -> Any:
        await until(lambda: self.reply != "waiting")
        return self.reply

    def event(self) -> bytes:
        return b'{"id":"%b","at":1}' % self.ex.id


@pytest.fixture
def made() -> Plan:
    """At most 5 a minute, 100 a month, each request holding 2."""
    return current(tier(5, requests=100), meters={"requests": 2})


def current(*arguments: Any, **different: Any) -> Plan:
    """A plan of today: Redis expires the counters of long ago at once."""
    return plan(*arguments, now=datetime.now(UTC), **different)


async def settled(limiter: Limiter) -> None:
    await until(lambda: not limiter.settlements.unsettled)


# -- as it should go


async def test_a_request_is_held_until_it_is_settled(redis_url: str, books: Books, made: Plan) -> None:
    async with limiter_on(redis_url) as limiter:
        asked = Asked(limiter, made)
        verdict, _, count, _, used = await asked.answer()
        assert (verdict, count, used) == (0, 1, 2)
        [held] = await books.reservations()
        assert (held["id"], held["hold"]) == (asked.ex.id.decode(), [[made.quotas[0].key, 2]])
        limiter.settle(asked.ex, asked.event(), is_charged=True)
        assert limiter.settlements.unsettled == 1
        await settled(limiter)
        assert await books.reservations() == []
        assert await books.quotas() == {"requests": 2}
        assert [event["id"] for event in await books.events()] == [asked.ex.id.decode()]


async def test_a_request_that_is_not_charged_gives_its_quota_back_and_is_an_event_all_the_same(
    redis_url: str, books: Books, made: Plan
) -> None:
    async with limiter_on(redis_url) as limiter:
        asked = Asked(limiter, made)
        await asked.answer()
        limiter.settle(asked.ex, asked.event(), is_charged=False)
        await settled(limiter)
        assert await books.quotas() == {"requests": 0}
        assert len(await books.events()) == 1


async def test_one_too_many_is_refused_and_holds_nothing(redis_url: str, books: Books, made: Plan) -> None:
    async with limiter_on(redis_url) as limiter:
        all_asked = [Asked(limiter, made) for _ in range(6)]
        replies = [await asked.answer() for asked in all_asked]
        assert [reply[0] for reply in replies] == [0, 0, 0, 0, 0, 1]
        assert len(await books.reservations()) == 5
        assert await books.quotas() == {"requests": 10}


async def test_thousands_settle_in_batches_and_each_once(redis_url: str, books: Books) -> None:
    unlimited = current(tier(requests=None))
    async with limiter_on(redis_url) as limiter:
        for _ in range(5):
            turn = [Asked(limiter, unlimited) for _ in range(300)]
            for asked in turn:
                await asked.answer()
                limiter.settle(asked.ex, asked.event(), is_charged=True)
        await settled(limiter)
        ids = [event["id"] for event in await books.events()]
        assert (len(ids), len(set(ids))) == (1_500, 1_500)
        assert await books.reservations() == []
        assert await books.quotas() == {"requests": 1_500}


# -- Redis forgets its scripts


async def test_scripts_that_redis_forgot_are_loaded_again(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, made: Plan
) -> None:
    async with limiter_on(redis_url) as limiter:
        await redis_client.script_flush()
        several = [Asked(limiter, made) for _ in range(3)]
        assert [(await asked.answer())[0] for asked in several] == [0, 0, 0]
        await redis_client.script_flush()
        for asked in several:
            limiter.settle(asked.ex, asked.event(), is_charged=True)
        await settled(limiter)
        assert await books.quotas() == {"requests": 6}
        assert len(await books.events()) == 3
        assert await books.reservations() == []


# -- Redis is slow


async def test_a_verdict_that_comes_too_late_is_given_back(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, made: Plan
) -> None:
    async with limiter_on(redis_url) as limiter:
        await redis_client.client_pause(300)
        asked = Asked(limiter, made)
        assert await asked.answer() is None
        assert not Asked(limiter, made).was_sent  # the next one need not wait to hear the same
        await until(lambda: limiter.redis.available)
        await settled(limiter)
        assert await books.reservations() == []
        assert await books.quotas() == {"requests": 0}
        assert await books.events() == []


async def test_a_refusal_that_comes_too_late_gives_nothing_back(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books
) -> None:
    full = current(tier(requests=2), meters={"requests": 2})
    async with limiter_on(redis_url) as limiter:
        await Asked(limiter, full).answer()
        await redis_client.client_pause(200)
        assert await Asked(limiter, full).answer() is None
        await until(lambda: limiter.redis.available)
        await settled(limiter)
        assert len(await books.reservations()) == 1
        assert await books.quotas() == {"requests": 2}


async def test_a_client_that_leaves_while_it_waits_gives_back_what_it_is_given(
    redis_url: str, books: Books, made: Plan
) -> None:
    async with limiter_on(redis_url) as limiter:
        asked = Asked(limiter, made)
        asked.ex.throw(ClientGone())
        await until(lambda: limiter.settlements.unsettled)
        await settled(limiter)
        assert await books.reservations() == []
        assert await books.quotas() == {"requests": 0}
        assert await books.events() == []


# -- replies get lost


async def test_an_admission_whose_reply_was_lost_is_given_back(redis_url: str, books: Books, made: Plan) -> None:
    async with Relay(redis_url) as relay, limiter_on(relay.url, deadline=1.0) as limiter:
        relay.swallows_replies = True
        asked = Asked(limiter, made)
        await until(lambda: relay.replies_swallowed)
        assert await books.quotas() == {"requests": 2}  # it was carried out
        relay.swallows_replies = False
        await relay.cut()
        assert await asked.answer() is None
        await settled(limiter)
        assert await books.quotas() == {"requests": 0}
        assert await books.reservations() == []


async def test_an_admission_that_was_never_carried_out_gives_nothing_back(
    redis_url: str, books: Books, made: Plan
) -> None:
    async with Relay(redis_url) as relay, limiter_on(relay.url) as limiter:
        await Asked(limiter, made).answer()
        relay.is_away = True
        asked = Asked(limiter, made)
        await relay.cut()
        await asked.answer()
        relay.is_away = False
        await settled(limiter)
        held = len(await books.reservations())
        assert held in (1, 2)  # whether the second got through is chance; that the books agree is not
        assert await books.quotas() == {"requests": 2 * held}


async def test_a_settlement_whose_reply_was_lost_is_repeated_and_counts_once(
    redis_url: str, books: Books, made: Plan
) -> None:
    async with Relay(redis_url) as relay, limiter_on(relay.url, deadline=1.0) as limiter:
        charged, uncharged, open_still = (Asked(limiter, made) for _ in range(3))
        for asked in (charged, uncharged, open_still):
            await asked.answer()
        relay.swallows_replies = True
        limiter.settle(charged.ex, charged.event(), is_charged=True)
        limiter.settle(uncharged.ex, uncharged.event(), is_charged=False)
        await until(lambda: relay.replies_swallowed)
        relay.swallows_replies = False
        await relay.cut()
        await settled(limiter)
        assert await books.quotas() == {"requests": 4}  # of the charged one and the open one
        assert [held["id"] for held in await books.reservations()] == [open_still.ex.id.decode()]
        ids = [event["id"] for event in await books.events()]
        assert sorted(set(ids)) == sorted((charged.ex.id.decode(), uncharged.ex.id.decode()))
        assert len(ids) == 4  # twice each: the ledger stores an id once


async def test_settlements_wait_while_redis_is_away(redis_url: str, books: Books, made: Plan) -> None:
    async with Relay(redis_url) as relay, limiter_on(relay.url) as limiter:
        asked = Asked(limiter, made)
        await asked.answer()
        relay.is_away = True
        await relay.cut()
        await until(lambda: not limiter.redis.available)
        limiter.settle(asked.ex, asked.event(), is_charged=True)
        assert not Asked(limiter, made).was_sent
        assert await limiter.settlements.drain(0.05) == 1
        assert await books.events() == []
        relay.is_away = False
        assert await limiter.settlements.drain(5.0) == 0
        assert len(await books.events()) == 1


async def test_many_settlements_after_an_outage_do_not_starve_admissions(redis_url: str, books: Books) -> None:
    unlimited = current(tier(requests=None))
    async with Relay(redis_url) as relay, limiter_on(relay.url) as limiter:
        relay.is_away = True
        await relay.cut()
        await until(lambda: not limiter.redis.available)
        for _ in range(20_000):
            ex = Exchange(Client(), LINE, FIELDS, uuid7_digits(1), 1, 1)  # type: ignore[arg-type]
            ex.plan = unlimited
            limiter.settle(ex, b'{"id":"%b","at":1}' % ex.id, is_charged=True)
        relay.is_away = False
        await until(lambda: limiter.redis.available)
        asked = 0
        while limiter.settlements.unsettled:
            assert await Asked(limiter, unlimited).answer() is not None
            asked += 1
        assert asked > 10
        events = await books.events()
        assert len({event["id"] for event in events}) == len(events) == 20_000


async def test_a_count_that_must_stand_stands_only_if_it_was_made(redis_url: str, books: Books, made: Plan) -> None:
    made.late_event = b'{"id":"late","at":1}'
    async with limiter_on(redis_url) as limiter:
        asked = Asked(limiter, made)
        await asked.answer()
        never = Exchange(Client(), LINE, FIELDS, uuid7_digits(1), 1, 1)  # type: ignore[arg-type]
        never.plan = made
        for ex in (never, asked.ex, asked.ex):
            limiter.give_back(ex)
        await settled(limiter)
        assert await books.quotas() == {"requests": 2}
        assert [event["id"] for event in await books.events()] == ["late"]
        assert await books.reservations() == []


# -- Redis refuses


async def test_an_admission_that_redis_refuses_has_no_verdict(
    redis_url: str, redis_client: redis.asyncio.Redis, made: Plan
) -> None:
    await redis_client.lpush(made.quotas[0].key, "not a number")
    async with limiter_on(redis_url) as limiter:
        errors = limiter.redis.errors
        assert await Asked(limiter, made).answer() is None
        assert limiter.redis.errors == errors + 1
        await redis_client.delete(made.quotas[0].key)
        assert (await Asked(limiter, made).answer())[0] == 0


async def test_settlements_that_redis_refuses_are_repeated_until_it_does_not(
    redis_url: str, redis_client: redis.asyncio.Redis, books: Books, made: Plan
) -> None:
    stream = names.usage_stream(SHARD)
    await redis_client.set(stream, "not a stream")
    async with limiter_on(redis_url) as limiter:
        charged, uncharged = Asked(limiter, made), Asked(limiter, made)
        for asked in (charged, uncharged):
            await asked.answer()
        limiter.settle(uncharged.ex, uncharged.event(), is_charged=False)
        limiter.settle(charged.ex, charged.event(), is_charged=True)
        errors = limiter.redis.errors
        await until(lambda: limiter.redis.errors > errors)
        assert limiter.settlements.unsettled == 2
        await redis_client.delete(stream)
        await settled(limiter)
        assert await books.quotas() == {"requests": 2}
        assert {event["id"] for event in await books.events()} == {charged.ex.id.decode(), uncharged.ex.id.decode()}


# -- bounds


async def test_with_too_much_unsettled_it_is_full(redis_url: str, made: Plan) -> None:
    async with limiter_on(redis_url, max_unsettled=2) as limiter:
        several = [Asked(limiter, made) for _ in range(3)]
        for asked in several:
            await asked.answer()
        for asked in several:
            assert not limiter.settlements.is_full
            limiter.settle(asked.ex, asked.event(), is_charged=True)
        assert limiter.settlements.is_full
        await settled(limiter)
        assert not limiter.settlements.is_full
        limiter.settlements.backlogged = True
        assert limiter.settlements.is_full


async def test_what_is_held_says_whose_it_is(redis_url: str, redis_client: redis.asyncio.Redis, made: Plan) -> None:
    async with limiter_on(redis_url) as limiter:
        asked = Asked(limiter, made)
        await asked.answer()
        raw = await redis_client.hget(names.reservations(SHARD), asked.ex.id.decode())
        assert raw is not None
        held = orjson.loads(raw)
        assert (held["gateway"], held["project"], held["customer"]) == ("gw-1", "prj_acme", "cus_ada")
        await asyncio.sleep(0)
