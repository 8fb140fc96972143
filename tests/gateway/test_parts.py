"""Long requests in parts: limits on messages are exact, and the parts together are what passed, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
import redis.asyncio

from gateway import parts as parts_module
from gateway.exchange import Exchange
from gateway.plans import plan_at
from ledger.events import Outcome, decode
from ledger.ids import part_id
from ledger.sweep import orphan_of
from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.metering.test_frames import frame
from tests.gateway.test_websocket import ACCEPTED, HANDSHAKE
from tests.gateway.wire import answering, drop, ok, read_answer, read_request, request
from tests.support.gateway import Books, Catalogue, until
from tests.support.raw import Peer
from tests.support.upstreams.models import COMPLETION, PROMPT, Model

ASKED = frame(1, 5, is_masked=True)
ECHO = frame(1, 9)


class Echo:
    """A WebSocket upstream that answers each message with `replies` of its own; `got` is what it received."""

    def __init__(self, replies: int = 1, *, hello: bytes = b"", leaves: bool = False) -> None:
        self.got = b""
        self.replies = replies
        self.hello = hello
        self.leaves = leaves

    async def __call__(self, peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ACCEPTED + self.hello)
        if self.leaves:
            return
        with contextlib.suppress(ConnectionError):  # the gateway may hang up at any time
            while data := await peer.read_some():
                self.got += data
                await peer.send(ECHO * self.replies * (data.count(ASKED)))

    @property
    def messages(self) -> int:
        return self.got.count(ASKED)


async def dial(s: Stage, extra: bytes = b"") -> Peer:
    """A client whose WebSocket is open."""
    client = await s.client()
    await client.send(request("/api/ws", s.key, *HANDSHAKE) + extra)
    assert (await read_answer(client)).status == 101
    return client


def exchange_of(s: Stage) -> Exchange:
    """The one request under way."""
    [exchange] = [c._ex for c in s.inside.door.connections if c._ex is not None]
    return exchange


async def cut(s: Stage) -> None:
    """End the part now, as the clock would."""
    exchange = exchange_of(s)
    assert exchange.parts.cut()
    await until(lambda: exchange.parts._before is None)


def total(events: Iterable[dict[str, Any]], meter: str) -> int:
    return sum(event["meters"].get(meter, 0) for event in events)


async def the_parts(s: Stage, books: Books) -> list[dict[str, Any]]:
    """All events of the one request, in order; they agree with one another and with the quotas."""
    await s.inside.settled()
    events = list({event["id"]: event for event in await books.events()}.values())
    assert await books.reservations() == []
    for meter, used in (await books.quotas()).items():
        assert used == total(events, meter), meter
    events.sort(key=lambda event: event["notes"]["part"] if "notes" in event else 0)
    if len(events) > 1:
        first = events[0]["id"]
        assert [event["notes"]["part_of"] for event in events] == [first] * len(events)
        assert [event["notes"]["part"] for event in events] == list(range(len(events)))
        assert {event["outcome"] for event in events[:-1]} == {Outcome.INTERIM}
        for number, event in enumerate(events[1:], 1):
            assert event["id"] == part_id(first.encode(), number, event["at"]).decode()
        assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    for event in events:
        decode(orjson.dumps(event))
    return events


# -- limits on messages


@pytest.mark.parametrize("lease", [1, 3, 100])
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
async def test_a_limit_on_messages_is_exact(stage: MakeStage, books: Books, lease: int, at_once: bool) -> None:
    echo = Echo()
    s = await stage(echo, tier={"quotas": {"messages_in": 7}}, route={"settle_every_messages": lease})
    client = await dial(s)
    if at_once:
        await client.send(ASKED * 20)
    else:
        for _ in range(7):
            await client.send(ASKED)
            assert await client.read_exactly(len(ECHO)) == ECHO
        await client.send(ASKED)
    last = await client.read_to_end()
    reason = b"quota used up: messages_in"
    answered = last.count(ECHO)  # it is closed at once: not all need have been answered by then
    assert last == ECHO * answered + b"\x88%c\x03\xf0%b" % (2 + len(reason), reason)
    answered = answered if at_once else 7
    await until(lambda: len(echo.got) > 7 * len(ASKED))
    assert echo.messages == 7
    assert echo.got[7 * len(ASKED)] == 0x88  # it is told as well
    events = await the_parts(s, books)
    assert total(events, "messages_in") == 7
    assert total(events, "messages_out") == answered
    assert total(events, "requests") == 1
    assert total(events, "bytes_out") == answered * len(ECHO)
    assert total(events, "bytes_in") == 7 * len(ASKED)
    assert events[-1]["outcome"] == Outcome.LIMIT_REACHED
    assert await books.quotas() == {"requests": 1, "messages_in": 7}
    assert s.inside.gateway.metrics.counts["cut_off_total"] == 1


async def test_connections_share_a_limit(stage: MakeStage, books: Books) -> None:
    echo = Echo()
    s = await stage(echo, tier={"quotas": {"messages": 40}}, route={"settle_every_messages": 7})
    clients = [await dial(s) for _ in range(3)]
    for _ in range(20):
        for client in clients:
            await client.send(ASKED)
        await asyncio.sleep(0)
    for client in clients:
        received = await client.read_to_end()
        assert received.endswith(b"quota used up: messages")
    await s.inside.settled()
    events = {event["id"]: event for event in await books.events()}.values()
    assert total(events, "messages") == 40
    assert total(events, "messages_in") + total(events, "messages_out") == 40
    assert (await books.quotas())["messages"] == 40


async def test_each_direction_has_its_own_limit(stage: MakeStage, books: Books) -> None:
    s = await stage(Echo(replies=2), tier={"quotas": {"messages_in": 5, "messages_out": 6}})
    client = await dial(s)
    await client.send(ASKED * 5)
    received = await client.read_to_end()
    assert received.startswith(ECHO * 6 + b"\x88")
    assert received.endswith(b"messages_out")
    events = await the_parts(s, books)
    assert (total(events, "messages_in"), total(events, "messages_out")) == (5, 6)


async def test_without_a_limit_parts_are_only_settled(stage: MakeStage, books: Books) -> None:
    echo = Echo()
    s = await stage(echo, route={"meters": {"requests": 1, "chat": "messages_in"}, "settle_every_messages": 10})
    client = await dial(s, ASKED)
    await client.send(ASKED * 24)
    assert await client.read_exactly(25 * len(ECHO)) == ECHO * 25
    drop(client)
    events = await the_parts(s, books)
    assert total(events, "chat") == total(events, "messages_in") == 25
    assert total(events, "messages_out") == 25
    assert all(e["meters"]["messages_in"] + e["meters"]["messages_out"] <= 10 for e in events)
    assert len(events) == 5 + 1  # what is counted ahead, 1, is the first part's permit
    assert events[-1]["outcome"] == Outcome.COMPLETED


async def test_an_ordinary_request_reserves_no_messages(stage: MakeStage, books: Books) -> None:
    refuse = answering(ok(b"", status=b"426 Upgrade Required"))
    s = await stage(refuse, tier={"quotas": {"messages": 1}})
    client = await s.client()
    for lines in ((), HANDSHAKE):
        await client.send(request("/api/x", s.key, *lines))
        assert (await read_answer(client)).status == 426
        await s.inside.settled()
    assert await books.quotas() == {"requests": 2, "messages": 0}


async def test_what_an_upstream_said_before_it_left_still_arrives(stage: MakeStage, books: Books) -> None:
    s = await stage(Echo(hello=ECHO * 9, leaves=True), tier={"quotas": {"messages_out": 9}})
    client = await dial(s)
    assert await client.read_to_end() == ECHO * 9
    events = await the_parts(s, books)
    assert (total(events, "messages_out"), events[-1]["outcome"]) == (9, Outcome.COMPLETED)


async def test_the_frame_that_is_under_way_is_finished_before_the_close(stage: MakeStage, books: Books) -> None:
    large = frame(2, 3_000)
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ACCEPTED + large[:1_000])
        await go_on.wait()
        await peer.send(large[1_000:] + ECHO)
        await peer.read_to_end()

    s = await stage(slow, tier={"quotas": {"messages_in": 1}})
    client = await dial(s)
    assert await client.read_exactly(1_000) == large[:1_000]
    await client.send(ASKED * 3)
    await until(lambda: exchange_of(s).parts.gate._is_closing)
    go_on.set()
    rest = await client.read_to_end()
    assert rest.startswith(large[1_000:] + b"\x88")
    events = await the_parts(s, books)
    assert total(events, "bytes_out") == len(large)


async def test_a_message_in_fragments_counts_once_and_pings_are_free(stage: MakeStage, books: Books) -> None:
    echo = Echo(replies=0)
    s = await stage(echo, tier={"quotas": {"messages_in": 2}})
    client = await dial(s)
    fragments = frame(1, 4, is_final=False, is_masked=True) + frame(9, 3, is_masked=True) + frame(0, 4, is_masked=True)
    await client.send(fragments * 2 + frame(9, 1, is_masked=True), pause_after=(1, 2, 5, 11, 20))
    await until(lambda: len(echo.got) == 2 * len(fragments) + 7)
    await client.send(ASKED)
    assert (await client.read_to_end()).endswith(b"messages_in")
    assert total(await the_parts(s, books), "messages_in") == 2


# -- settled by the clock


async def test_a_long_stream_is_settled_in_parts(stage: MakeStage, books: Books) -> None:
    model = Model(hold_after=3)
    meters = {"requests": 1, "tokens": {"source": "usage:total", "estimate": 30}, "duration_ms": "duration_ms"}
    quotas = {"tokens": 1_000, "bytes_out": None}
    s = await stage(model, tier={"quotas": quotas}, route={"meters": meters, "settle_every_s": 1})
    client = await s.client()
    body = orjson.dumps({"stream": True, "stream_options": {"include_usage": True}})
    await client.send(request("/api/v1/chat/completions", s.key, method="POST", body=body))
    await client.read_until(b' a"')
    await cut(s)
    assert (await books.quotas())["tokens"] == 30  # still held, for the part that is to come
    [held] = await books.reservations()
    assert held["meters"] == {"tokens": 30, "duration_ms": 1, "bytes_out": 1}
    swept = orjson.loads(orphan_of(orjson.dumps(held), "charge_estimate")[0])
    request_id = exchange_of(s).id.decode()
    assert (swept["id"], swept["notes"]) == (held["id"], {"part_of": request_id, "part": 1})
    await until(lambda: exchange_of(s).parts._now.number == 2, within_s=3)  # by the clock
    model.go_on.set()
    await client.read_until(b"0\r\n\r\n")
    first, second, last = await the_parts(s, books)
    assert [event["meters"]["tokens"] for event in (first, second, last)] == [0, 0, PROMPT + COMPLETION]
    assert (first["meters"]["requests"], "requests" in second["meters"], "requests" in last["meters"]) == (
        1,
        False,
        False,
    )
    assert total((first, second, last), "bytes_out") == len(model.sent[0])
    assert first["meters"]["bytes_in"] == len(body)
    assert second["duration_us"] >= 900_000
    assert last["outcome"] == Outcome.COMPLETED


async def test_a_stream_is_broken_off_when_its_quota_is_used_up(stage: MakeStage, books: Books) -> None:
    model = Model(hold_after=3)
    s = await stage(model, tier={"quotas": {"bytes_out": 300}}, route={"settle_every_s": 60})
    client = await s.client()
    await client.send(request("/api/v1/chat/completions", s.key, method="POST", body=b'{"stream":true}'))
    await client.read_until(b' a"')
    assert exchange_of(s).parts.cut()
    assert not (await client.read_to_end()).endswith(b"0\r\n\r\n")
    events = await the_parts(s, books)
    assert [event["outcome"] for event in events] == [Outcome.INTERIM, Outcome.LIMIT_REACHED]
    assert total(events, "bytes_out") > 300


async def test_a_part_belongs_to_the_period_it_began_in(
    stage: MakeStage, books: Books, redis_client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = await stage(Echo(), tier={"quotas": {"messages_in": 5}}, route={"settle_every_messages": 50})
    client = await dial(s)
    await client.send(ASKED * 3)
    await client.read_exactly(3 * len(ECHO))
    month = 32 * 86_400
    monkeypatch.setattr(parts_module, "plan_at", lambda gw, caller, now: plan_at(gw, caller, now + month))
    await cut(s)
    await client.send(ASKED * 5)  # all of the new month's
    await client.read_exactly(5 * len(ECHO))
    await client.send(ASKED)
    assert (await client.read_to_end()).endswith(b"messages_in")
    await s.inside.settled()
    counters = [key async for key in redis_client.scan_iter("tg:*:quota:*:messages_in:*")]
    assert sorted([int(await redis_client.get(key)) for key in counters]) == [3, 5]


# -- when things go wrong


async def test_a_reply_that_is_lost_is_asked_for_again(stage: MakeStage, books: Books) -> None:
    s = await stage(Echo(), tier={"quotas": {"messages_in": 20}}, route={"settle_every_messages": 4})
    client = await dial(s)
    for _ in range(4):
        await client.send(ASKED)
        await client.read_exactly(len(ECHO))
        exchange = exchange_of(s)
        assert exchange.parts.cut()
        pipe = s.inside.gateway.limiter.redis
        assert pipe._transport is not None
        errors = pipe.errors
        pipe._flush()
        pipe._transport.abort()
        await until(lambda pipe=pipe, errors=errors: pipe.errors > errors)
        await until(lambda ex=exchange: ex.parts._before is None and s.inside.gateway.limiter.is_current)
    await client.send(ASKED * 30)
    assert (await client.read_to_end()).endswith(b"messages_in")
    assert total(await the_parts(s, books), "messages_in") == 20


async def test_the_end_may_come_before_the_reply(
    stage: MakeStage, books: Books, redis_client: redis.asyncio.Redis
) -> None:
    s = await stage(Echo(), tier={"quotas": {"messages_in": 20}}, route={"settle_every_messages": 4})
    client = await dial(s)
    await client.send(ASKED * 3)
    await client.read_exactly(3 * len(ECHO))
    await redis_client.execute_command("CLIENT", "PAUSE", "150", "ALL")
    exchange = exchange_of(s)
    assert exchange.parts.cut()
    await client.send(ASKED)  # within the new part, whatever it will hold
    drop(client)
    await until(lambda: exchange.is_over)
    events = await the_parts(s, books)
    assert total(events, "messages_in") <= 4
    assert events[-1]["outcome"] == Outcome.COMPLETED
    assert len(events) > 2


@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_without_redis_messages_wait_or_pass_as_the_route_says(
    stage: MakeStage, books: Books, policy: str, tmp_path: Any
) -> None:
    echo = Echo()
    s = await stage(
        echo,
        tier={"quotas": {"messages_in": 50}},
        route={"settle_every_messages": 4, "on_store_failure": policy},
    )
    client = await dial(s)
    pipe = s.inside.gateway.limiter.redis
    pipe.available = False
    await client.send(ASKED * 10)
    if policy == "open":
        await client.read_exactly(10 * len(ECHO))
    else:
        await until(lambda: echo.messages == 1)
        await asyncio.sleep(0.05)
        assert echo.messages == 1
    pipe.available = True
    await client.send(ASKED * 40)
    await client.read_exactly((40 if policy == "open" else 50) * len(ECHO))
    drop(client)
    assert total(await the_parts(s, books), "messages_in") == 50


async def test_a_client_that_takes_nothing_holds_back_the_upstream(stage: MakeStage, books: Books) -> None:
    s = await stage(Echo(hello=frame(2, 60_000) * 400), tier={"quotas": {"messages_out": 1_000}})
    client = await s.client()
    client._reader._transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(request("/api/ws", s.key, *HANDSHAKE))
    await until(lambda: any(c._write_paused for c in s.inside.door.connections))
    exchange = exchange_of(s)
    passed = exchange.bytes_out
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert exchange.bytes_out - passed < 600_000
    client._reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert (await read_answer(client)).status == 101
    await client.read_exactly(400 * len(frame(2, 60_000)))
    drop(client)
    assert total(await the_parts(s, books), "messages_out") == 400


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_the_books_agree_with_the_upstream(
    stage: MakeStage, books: Books, redis_client: redis.asyncio.Redis, seed: int
) -> None:
    """Connections come and go, Redis breaks off or stalls, parts are cut at any moment: not a message too many, or lost."""
    dice = random.Random(seed)
    echo = Echo()
    limit = 120
    s = await stage(
        echo, tier={"quotas": {"messages_in": limit}}, route={"settle_every_messages": dice.choice([2, 7, 40])}
    )
    pipe = s.inside.gateway.limiter.redis
    clients = [await dial(s) for _ in range(4)]
    for _ in range(70):
        act = dice.choice(["send"] * 6 + ["cut", "cut", "break", "stall", "leave"])
        open_now = [c.exchange for c in s.inside.door.connections if c.exchange is not None and c.exchange.parts]
        if act == "send":
            with contextlib.suppress(ConnectionError):
                await dice.choice(clients).send(ASKED * dice.randint(1, 9), pause_after=(1, 5))
        elif act == "cut" and open_now:
            dice.choice(open_now).parts.cut()
        elif act == "break" and pipe._transport is not None:
            pipe._flush()
            pipe._transport.abort()
        elif act == "stall":
            await redis_client.execute_command("CLIENT", "PAUSE", "20", "ALL")
        elif act == "leave" and len(clients) > 2:
            drop(clients.pop(dice.randrange(len(clients))))
            await until(lambda: s.inside.gateway.limiter.is_current)
            with contextlib.suppress(EOFError, AssertionError):
                clients.append(await dial(s))
        await asyncio.sleep(dice.choice([0, 0.001, 0.01]))
    for client in clients:
        drop(client)
    await s.inside.settled()
    await until(lambda: s.inside.gateway.limiter.is_current)
    await s.inside.settled()
    events = {event["id"]: event for event in await books.events()}.values()
    used = (await books.quotas())["messages_in"]
    assert echo.messages <= total(events, "messages_in") == used <= limit
    assert await books.reservations() == []


# -- what changes meanwhile


async def test_a_key_that_is_revoked_ends_its_connections(stage: MakeStage, books: Books, catalogue: Catalogue) -> None:
    s = await stage(Echo(), route={"settle_every_messages": 4, "meters": {"requests": 1, "chat": "messages_in"}})
    client = await dial(s)
    await client.send(ASKED)
    await client.read_exactly(len(ECHO))
    await catalogue.pg.execute("UPDATE keys SET revoked_at = now()")
    await s.inside.caught_up(catalogue.pg)
    assert (await client.read_to_end()).endswith(b"the key is not valid any more")
    events = await the_parts(s, books)
    assert events[-1]["outcome"] == Outcome.LIMIT_REACHED
    assert total(events, "messages_in") == total(events, "chat") <= 9


async def test_a_new_limit_holds_from_the_next_part_on(stage: MakeStage, books: Books, catalogue: Catalogue) -> None:
    s = await stage(Echo(), tier={"quotas": {"messages_in": 6}}, route={"settle_every_messages": 3})
    client = await dial(s)
    await client.send(ASKED * 2)
    await client.read_exactly(2 * len(ECHO))
    await catalogue.pg.execute("UPDATE tier_quotas SET quota = 11")
    await catalogue.pg.execute(
        "INSERT INTO tier_quotas (tier_id, meter, quota) SELECT tier_id, 'bytes_out', NULL FROM tier_quotas"
    )
    await s.inside.caught_up(catalogue.pg)
    for _ in range(9):
        await client.send(ASKED)
        await client.read_exactly(len(ECHO))
        await asyncio.sleep(0.005)
    await client.send(ASKED)
    assert (await client.read_to_end()).endswith(b"messages_in")
    await s.inside.settled()
    events = {event["id"]: event for event in await books.events()}.values()
    assert total(events, "messages_in") == 11 == (await books.quotas())["messages_in"]


async def test_a_tier_that_limits_messages_no_more_lets_them_pass(
    stage: MakeStage, books: Books, catalogue: Catalogue
) -> None:
    """Then nothing is left to be measured on this route, but the parts that were begun go on."""
    s = await stage(Echo(), tier={"quotas": {"messages_in": 6}})
    client = await dial(s)
    await client.send(ASKED * 4)
    await client.read_exactly(4 * len(ECHO))
    await catalogue.pg.execute("DELETE FROM tier_quotas")
    await s.inside.caught_up(catalogue.pg)
    await until(lambda: "messages_in" not in exchange_of(s).parts.caller.plan.tier.quotas)
    await cut(s)
    await client.send(ASKED * 20)
    await client.read_exactly(20 * len(ECHO))
    await client.close()
    await s.inside.settled()
    events = {event["id"]: event for event in await books.events()}.values()
    assert (total(events, "messages_in"), await books.quotas()) == (24, {"requests": 1, "messages_in": 4})
    assert await books.reservations() == []


async def test_a_change_that_does_not_matter_changes_nothing(
    stage: MakeStage, books: Books, catalogue: Catalogue
) -> None:
    s = await stage(Echo(), tier={"quotas": {"messages_in": 6}}, route={"settle_every_messages": 3})
    client = await dial(s)
    await catalogue.customer("somebody else")
    await s.inside.caught_up(catalogue.pg)
    before = exchange_of(s).parts.caller
    await client.send(ASKED * 5)
    await client.read_exactly(5 * len(ECHO))
    assert exchange_of(s).parts.caller is before
    drop(client)
    assert total(await the_parts(s, books), "messages_in") == 5
