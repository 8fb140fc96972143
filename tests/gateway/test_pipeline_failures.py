"""What becomes of a request when its upstream, its client, Redis or Postgres fails, in every phase of its life.

The rule: what was admitted is settled and is exactly one event; what was not admitted leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from gateway.clock import Clock
from gateway.forward import connect as connect_upstream
from gateway.proxy.pool import Pool
from gateway.proxy.upstream import UpstreamBroken
from ledger.specs import UpstreamSpec
from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.faults import Relay
from tests.gateway.wire import Answer, answering, ask, ok, read_answer, read_request, request
from tests.support.gateway import Books, Catalogue, InProcessGateway, until
from tests.support.raw import Peer, Upstream, connect

TIER: dict[str, Any] = {"quotas": {"requests": 100}}
Script = Callable[[Peer], Awaitable[None]]


async def the_books_agree(s: Stage, books: Books, *, charged: int, outcome: str, status: int) -> dict[str, Any]:
    """One event, so much counted, nothing held."""
    await s.inside.settled()
    assert await books.reservations() == []
    assert await books.quotas() == {"requests": charged}
    [event] = await books.events()
    assert (event["outcome"], event["status"], event["meters"]["requests"]) == (outcome, status, charged)
    return event


async def nothing_was_counted(s: Stage, books: Books) -> None:
    await s.inside.settled()
    assert await books.reservations() == []
    assert await books.events() == []
    assert set((await books.quotas()).values()) <= {0}


# -- the upstream fails


async def reset_at_once(peer: Peer) -> None:
    await read_request(peer)
    await peer.reset()


async def close_at_once(peer: Peer) -> None:
    await read_request(peer)


async def half_a_head(peer: Peer) -> None:
    await read_request(peer)
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-")


async def garbage(peer: Peer) -> None:
    await read_request(peer)
    await peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def splitting(peer: Peer) -> None:
    await read_request(peer)
    await peer.send(b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: stolen\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (reset_at_once, "upstream_failed"),
        (close_at_once, "upstream_failed"),
        (half_a_head, "upstream_failed"),
        (garbage, "upstream_invalid"),
        (splitting, "upstream_invalid"),
    ],
)
async def test_an_upstream_that_fails_before_its_answer_is_a_502(
    stage: MakeStage, books: Books, script: Script, code: str
) -> None:
    s = await stage(script, tier=TIER)
    client = await s.client()
    answer = await ask(client, request("/api/x", s.key))
    assert (answer.status, answer.json()["code"]) == (502, code)
    assert answer.headers["ratelimit"].startswith('"requests";r=99;')
    assert b"stolen" not in answer.head + answer.body
    assert len(s.upstream.received) == 1  # it may have acted: it is not asked again
    await the_books_agree(s, books, charged=1, outcome="upstream_failed", status=502)
    assert (await ask(client, request("/nowhere"))).status == 404  # the client's connection is still good


async def test_an_upstream_that_cannot_be_reached_is_a_502_that_costs_nothing(stage: MakeStage, books: Books) -> None:
    s = await stage(answering(ok()), tier=TIER, route={"origins": ["http://127.0.0.1:1"]})
    answer = await ask(await s.client(), request("/api/x", s.key))
    assert (answer.status, answer.json()["code"]) == (502, "upstream_unreachable")
    await the_books_agree(s, books, charged=0, outcome="upstream_failed", status=502)


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_an_upstream_that_breaks_off_breaks_off_the_answer(
    stage: MakeStage, books: Books, framing: bytes, end: str
) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await read_request(peer)
        body = b"2\r\nxy\r\n" if b"chunked" in framing else b"xy"
        await peer.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, body))
        await go_on.wait()
        if end == "reset":
            await peer.reset()

    s = await stage(script, tier=TIER)
    client = await s.client()
    await client.send(request("/api/x", s.key))
    received = await client.read_until(b"xy")
    go_on.set()
    rest = await client.read_to_end()
    assert b"HTTP/1.1 5" not in rest  # no second answer inside the first
    assert rest in (b"", b"\r\n")  # never a last chunk
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    event = await the_books_agree(s, books, charged=1, outcome="upstream_failed", status=200)
    assert event["meters"]["bytes_out"] == 2


CUT = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n4\r\nabcd\r\n2\r\nef\r\n0\r\n\r\n"


async def test_an_answer_that_is_cut_anywhere_is_a_clean_502_or_is_broken_off(stage: MakeStage, books: Books) -> None:
    sizes = iter(range(len(CUT) + 1))

    async def script(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(CUT[: next(sizes)])

    s = await stage(script, tier={"quotas": {"requests": None}})
    outcomes = []
    for _ in range(len(CUT) + 1):
        client = await s.client()
        await client.send(request("/api/x", s.key, "Connection: close"))
        received = await client.read_to_end()
        await client.close()
        head, _, body = received.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 502 "):
            outcomes.append("502")
        else:
            assert head.startswith(b"HTTP/1.1 200 OK\r\nX: y\r\n")
            is_complete = body.endswith(b"0\r\n\r\n")
            payload = body.replace(b"4\r\n", b"").replace(b"2\r\n", b"").replace(b"0\r\n", b"").replace(b"\r\n", b"")
            payload = payload.translate(None, b"0123456789")
            assert b"abcdef".startswith(payload)
            assert is_complete == (payload == b"abcdef" and outcomes[-1:] != [] and len(outcomes) == len(CUT))
            outcomes.append("whole" if is_complete else "broken off")
    head_ends = CUT.index(b"\r\n\r\n") + 4
    assert outcomes == ["502"] * head_ends + ["broken off"] * (len(CUT) - head_ends) + ["whole"]
    await s.inside.settled()
    assert len(await books.events()) == len(CUT) + 1


async def test_an_upstream_that_says_nothing_is_a_504(stage: MakeStage, books: Books) -> None:
    async def silent(peer: Peer) -> None:
        await read_request(peer)
        await peer.read_to_end()

    s = await stage(silent, tier=TIER, route={"read_timeout_ms": 80, "retries": 2})
    began = time.monotonic()
    answer = await ask(await s.client(), request("/api/x", s.key))
    assert (answer.status, answer.json()["code"]) == (504, "upstream_timeout")
    assert 0.05 < time.monotonic() - began < 1.0
    assert len(s.upstream.received) == 1
    await the_books_agree(s, books, charged=1, outcome="upstream_failed", status=504)


async def test_an_upstream_that_is_slow_on_a_used_connection_is_not_asked_twice(stage: MakeStage, books: Books) -> None:
    async def then_silent(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ok())
        await peer.read_to_end()

    s = await stage(then_silent, tier=TIER, route={"read_timeout_ms": 80, "retries": 2})
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    assert (await ask(client, request("/api/x", s.key))).status == 504
    assert sum(received.count(b"GET ") for received in s.upstream.received) == 2


async def test_an_upstream_that_stalls_in_its_answer_is_broken_off(stage: MakeStage, books: Books) -> None:
    async def stall(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ok(b"0123456789")[:-4])
        await peer.read_to_end()

    s = await stage(stall, tier=TIER, route={"read_timeout_ms": 80})
    client = await s.client()
    await client.send(request("/api/x", s.key))
    assert (await client.read_to_end()).endswith(b"\r\n\r\n012345")
    await the_books_agree(s, books, charged=1, outcome="upstream_failed", status=200)


async def test_an_answer_that_keeps_coming_is_not_broken_off(stage: MakeStage) -> None:
    async def trickle(peer: Peer) -> None:
        await read_request(peer)
        answer = ok(b"0123456789")
        for n in range(len(answer) - 10, len(answer)):
            await peer.send(answer[:n] if n == len(answer) - 10 else answer[n - 1 : n])
            await asyncio.sleep(0.03)
        await peer.send(answer[-1:])

    s = await stage(trickle, route={"read_timeout_ms": 150})
    assert (await ask(await s.client(), request("/api/x", s.key))).body == b"0123456789"


@pytest.mark.parametrize("phase", ["head", "body"])
async def test_the_whole_request_has_a_deadline_too(stage: MakeStage, books: Books, phase: str) -> None:
    async def trickle(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if phase == "body" else b""))
        try:
            while True:
                await peer.send(b"X: y\r\n")
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass

    s = await stage(trickle, tier=TIER, route={"total_timeout_ms": 150})
    client = await s.client()
    began = time.monotonic()
    await client.send(request("/api/x", s.key))
    received = await client.read_to_end() if phase == "body" else (await read_answer(client)).head
    assert received.startswith(b"HTTP/1.1 200 OK" if phase == "body" else b"HTTP/1.1 504 ")
    assert not received.endswith(b"\r\n0\r\n\r\n")  # the request id may end with a zero
    assert 0.1 < time.monotonic() - began < 1.0
    await the_books_agree(s, books, charged=1, outcome="upstream_failed", status=200 if phase == "body" else 504)


async def test_the_whole_deadline_holds_while_a_connection_is_waited_for(
    stage: MakeStage, catalogue: Catalogue
) -> None:
    """One place in the pool, taken by somebody else until the deadline has passed."""

    async def slow(peer: Peer) -> None:
        assert b"/first" in await read_request(peer)
        await asyncio.sleep(0.2)
        await peer.send(ok())
        await peer.read_to_end()

    s = await stage(slow, route={"upstream_max_connections": 1})
    await catalogue.route("hasty", "/hasty/*", [(s.upstream.host, s.upstream.port)], total_timeout_ms=100)
    await catalogue.pg.execute(
        "UPDATE routes SET upstream_id = (SELECT id FROM upstreams WHERE name = 'api') WHERE name = 'hasty'"
    )
    await s.inside.caught_up(catalogue.pg)
    first, second = await s.client(), await s.client()
    await first.send(request("/api/first", s.key))
    await until(lambda: s.upstream.received)
    began = time.monotonic()
    answer = await ask(second, request("/hasty/second", s.key))
    assert answer.status == 504
    assert 0.09 < time.monotonic() - began < 1.0
    assert (await read_answer(first)).status == 200


async def test_when_all_connections_are_in_use_it_says_so(stage: MakeStage, books: Books) -> None:
    async def silent(peer: Peer) -> None:
        await peer.read_to_end()

    s = await stage(
        silent,
        tier=TIER,
        route={"upstream_max_connections": 1, "upstream_connect_timeout_ms": 60, "read_timeout_ms": 400, "retries": 0},
    )
    first, second = await s.client(), await s.client()
    await first.send(request("/api/x", s.key))
    await until(lambda: s.upstream.received)
    answer = await ask(second, request("/api/x", s.key))
    assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "upstream_busy", "1")
    assert (await read_answer(first)).status == 504
    await s.inside.settled()
    assert sorted(event["meters"]["requests"] for event in await books.events()) == [0, 1]
    assert await books.quotas() == {"requests": 1}


# -- once more, where that is safe


def dying(*, after: int) -> Script:
    """Answers `after` requests of its first connection, then closes it with the next; later connections are good."""
    connections: list[Peer] = []

    async def script(peer: Peer) -> None:
        connections.append(peer)
        if len(connections) > 1:
            await answering(ok(b"again"))(peer)
            return
        for _ in range(after):
            await read_request(peer)
            await peer.send(ok(b"first"))
        await peer.read_some()

    return script


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
async def test_a_stale_connection_costs_a_second_try_and_counts_once(
    stage: MakeStage, books: Books, method: str
) -> None:
    s = await stage(dying(after=1), tier=TIER)
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key, method=method))).body == b"first"
    assert (await ask(client, request("/api/x", s.key, method=method))).body == b"again"
    await s.inside.settled()
    assert await books.quotas() == {"requests": 2}
    assert [event["status"] for event in await books.events()] == [200, 200]


@pytest.mark.parametrize(
    ("after", "method", "body", "retries"),
    [(1, "POST", None, 1), (1, "PATCH", None, 1), (1, "PUT", b"body", 1), (0, "GET", None, 1), (1, "GET", None, 0)],
    ids=["POST", "PATCH", "with a body", "a fresh connection", "no retries wanted"],
)
async def test_what_may_have_had_an_effect_is_not_tried_again(
    stage: MakeStage, books: Books, after: int, method: str, body: bytes | None, retries: int
) -> None:
    s = await stage(dying(after=after), tier=TIER, route={"retries": retries})
    client = await s.client()
    statuses = [
        (await ask(client, request("/api/x", s.key, method=method, body=body))).status for _ in range(after + 1)
    ]
    assert statuses == [200] * after + [502]
    assert len(s.upstream.received) == 1
    await s.inside.settled()
    assert await books.quotas() == {"requests": after + 1}


async def test_an_origin_that_refuses_gives_way_to_the_next(stage: MakeStage, books: Books) -> None:
    async with Upstream(answering(ok(b"second"))) as good:
        origins = ["http://127.0.0.1:1", f"http://127.0.0.1:{good.port}"]
        s = await stage(answering(ok()), tier=TIER, route={"origins": origins})
        client = await s.client()
        for _ in range(4):
            post = request("/api/x", s.key, method="POST", body=b"body")
            assert (await ask(client, post)).body == b"second"  # nothing was sent to the first: even a POST is safe
        await s.inside.settled()
        assert await books.quotas() == {"requests": 4}
        assert len(await books.events()) == 4


async def test_an_upstream_that_hangs_up_on_every_connection_is_a_502(stage: MakeStage, books: Books) -> None:
    async def nothing(peer: Peer) -> None:
        return

    s = await stage(nothing, tier=TIER, route={"retries": 1})
    client = await s.client()
    for _ in range(20):  # whether the end is seen before or after the request is sent is chance
        assert (await ask(client, request("/api/x", s.key))).status == 502
    await s.inside.settled()
    assert len(await books.events()) == 20
    assert (await books.quotas())["requests"] == sum(e["meters"]["requests"] for e in await books.events())


async def test_a_connection_that_is_gone_before_it_is_used_was_never_connected() -> None:
    async with Upstream(answering(ok())) as upstream:
        url = f"http://127.0.0.1:{upstream.port}"
        pool = Pool(url, UpstreamSpec.model_validate({"name": "up", "targets": [url]}), Clock())
        opening = pool.open()
        connection = await opening

        class Closing:
            """A pool whose connection is closed between being made and being used."""

            def open(self) -> asyncio.Future[Any]:
                connection.abort()
                return opening

        with pytest.raises(UpstreamBroken) as raised:
            await connect_upstream(None, Closing())  # type: ignore[arg-type]
        assert not raised.value.was_connected
        await until(lambda: not pool.open_connections)


# -- the client leaves


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("phase", ["waiting for the head", "in the answer", "in the request body"])
async def test_a_client_that_leaves_is_billed_for_what_passed(
    stage: MakeStage, books: Books, phase: str, how: str
) -> None:
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        if phase == "in the answer":
            await peer.send(ok(b"x" * 100)[:-50])
        assert await peer.read_to_end() in (b"", b"half")
        ended.set()

    s = await stage(script, tier=TIER)
    client = await s.client()
    if phase == "in the request body":
        await client.send(request("/api/x", s.key, "Content-Length: 9", method="POST") + b"half")
    else:
        await client.send(request("/api/x", s.key))
    await until(lambda: s.upstream.received and s.upstream.received[0])
    if phase == "in the answer":
        await client.read_until(b"x" * 50)
    elif phase == "in the request body":
        await until(lambda: s.upstream.received[0].endswith(b"half"))
    await (client.close() if how == "close" else client.reset() if how == "reset" else _half_close(client))
    await asyncio.wait_for(ended.wait(), 5)  # the upstream learns of it
    status = 200 if phase == "in the answer" else 499
    event = await the_books_agree(s, books, charged=1, outcome="client_gone", status=status)
    assert event["meters"]["bytes_out"] == (50 if phase == "in the answer" else 0)
    assert event["meters"]["bytes_in"] == (4 if phase == "in the request body" else 0)


async def _half_close(client: Peer) -> None:
    client.half_close()


async def test_a_client_that_leaves_while_it_waits_for_admission_gives_everything_back(
    stage: MakeStage, redis_client: redis.asyncio.Redis, books: Books
) -> None:
    s = await stage(answering(ok()), tier=TIER, store_deadline_ms=2_000)
    client = await s.client()
    await redis_client.client_pause(200)
    await client.send(request("/api/x", s.key))
    await until(lambda: any(c.is_busy for c in s.inside.door.connections))
    await client.close()
    await until(lambda: not s.inside.door.connections)
    await nothing_was_counted(s, books)
    assert s.upstream.received == []


async def test_a_client_that_leaves_while_a_connection_is_made_costs_nothing(stage: MakeStage, books: Books) -> None:
    async def silent(peer: Peer) -> None:
        await peer.read_to_end()

    s = await stage(silent, tier=TIER, route={"upstream_max_connections": 1})
    first, second = await s.client(), await s.client()
    await first.send(request("/api/first", s.key))
    await until(lambda: s.upstream.received)
    await second.send(request("/api/second", s.key))
    await until(lambda: len([c for c in s.inside.door.connections if c.is_busy]) == 2)
    await _admitted(books, 2)
    await second.close()
    await until(lambda: len(s.inside.door.connections) == 1)
    await until(lambda: not s.inside.gateway.limiter.settlements.unsettled)
    [event] = await books.events()
    assert (event["outcome"], event["status"], event["meters"]) == ("client_gone", 499, {"requests": 0})
    assert await books.quotas() == {"requests": 1}
    await first.close()
    await s.inside.settled()
    assert await books.reservations() == []
    assert not any(b"/second" in received for received in s.upstream.received)


async def _admitted(books: Books, count: int) -> None:
    async def is_so() -> bool:
        return len(await books.reservations()) == count

    await until(is_so)


async def test_a_client_that_leaves_while_its_key_is_looked_up_costs_nothing(
    stage: MakeStage, pg: asyncpg.Connection, postgres_url: str, books: Books
) -> None:
    s = await stage(answering(ok()), tier=TIER)
    client = await s.client()
    other = await asyncpg.connect(postgres_url)
    async with other.transaction():
        await other.execute("LOCK TABLE keys")
        await client.send(request("/api/x", s.key))
        await until(lambda: any(c.is_busy for c in s.inside.door.connections))
        await client.close()
        await until(lambda: not s.inside.door.connections)
    await other.close(timeout=5)
    await nothing_was_counted(s, books)
    assert (await ask(await s.client(), request("/api/x", s.key))).status == 200


# -- backpressure

LARGE = 48 * 2**20


async def test_a_client_that_does_not_read_holds_its_upstream_not_our_memory(stage: MakeStage, books: Books) -> None:
    sent = 0

    async def pour(peer: Peer) -> None:
        nonlocal sent
        await read_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        try:
            while sent < LARGE:
                await peer.send(b"x" * 262_144)
                sent += 262_144
        except (TimeoutError, ConnectionError):
            pass

    s = await stage(pour, tier=TIER)
    client = await s.client()
    await client.send(request("/api/x", s.key))
    before = -1
    while sent != before or not sent:  # until nothing moves any more
        before = sent
        await asyncio.sleep(0.1)
    assert 0 < sent < LARGE // 2
    head = await client.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    received = 0
    while received < LARGE:
        received += len(await client.read_some())
    event = await the_books_agree(s, books, charged=1, outcome="completed", status=200)
    assert event["meters"]["bytes_out"] == LARGE


async def test_an_upstream_that_does_not_read_holds_its_client_not_our_memory(stage: MakeStage, books: Books) -> None:
    go_on = asyncio.Event()

    async def hesitate(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        peer._reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go_on.wait()
        peer._reader._transport.resume_reading()  # type: ignore[attr-defined]
        await peer.read_exactly(LARGE)
        await peer.send(ok(b"all of it"))

    s = await stage(hesitate, tier=TIER)
    client = await s.client()
    sent = 0

    async def pour() -> None:
        nonlocal sent
        await client.send(request("/api/x", s.key, f"Content-Length: {LARGE}", method="POST"))
        while sent < LARGE:
            await client.send(b"x" * 262_144)
            sent += 262_144

    pouring = asyncio.create_task(pour())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.1)
    assert 0 < sent < LARGE // 2
    go_on.set()
    await pouring
    assert (await read_answer(client)).body == b"all of it"
    event = await the_books_agree(s, books, charged=1, outcome="completed", status=200)
    assert event["meters"]["bytes_in"] == LARGE


async def test_an_answer_that_is_not_taken_is_broken_off(stage: MakeStage, books: Books) -> None:
    async def pour(peer: Peer) -> None:
        await read_request(peer)
        try:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
            for _ in range(LARGE // 262_144):
                await peer.send(b"x" * 262_144)
        except (TimeoutError, ConnectionError):
            pass

    s = await stage(pour, tier=TIER, route={"read_timeout_ms": 200})
    client = await s.client()
    await client.send(request("/api/x", s.key))
    await until(lambda: not s.inside.door.connections)
    event = await the_books_agree(s, books, charged=1, outcome="client_gone", status=200)
    assert event["meters"]["bytes_out"] < LARGE


# -- an early answer


@pytest.mark.parametrize("status", [b"413 Content Too Large", b"200 OK"])
async def test_an_answer_may_come_before_the_request_is_whole(stage: MakeStage, books: Books, status: bytes) -> None:
    async def early(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(ok(b"enough", status=status))
        await peer.read_to_end()

    s = await stage(early, tier=TIER)
    client = await s.client()
    await client.send(request("/api/x", s.key, "Content-Length: 50000000", method="POST") + b"x" * 100_000)
    answer = await read_answer(client)
    assert (answer.status, answer.body, answer.headers["connection"]) == (int(status[:3]), b"enough", "close")
    await client.send(b"x" * 100_000)  # still coming: taken and thrown away, so that no reset destroys the answer
    await client.close()
    await the_books_agree(s, books, charged=1, outcome="completed", status=int(status[:3]))


# -- answers of others


async def test_what_follows_an_answer_never_reaches_the_next_client(stage: MakeStage, catalogue: Catalogue) -> None:
    secret = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET"

    async def too_much(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ok(b"mine") + secret)
        await peer.read_to_end()

    s = await stage(too_much)
    clients = [await s.client() for _ in range(4)]
    answers: list[Answer] = list(await asyncio.gather(*(ask(c, request("/api/x", s.key)) for c in clients)))
    answers += [await ask(client, request("/api/x", s.key)) for client in clients]
    assert [answer.body for answer in answers] == [b"mine"] * 8


async def test_what_comes_between_two_requests_never_reaches_the_next_client(stage: MakeStage) -> None:
    async def afterthought(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ok(b"mine"))
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET")
        await peer.read_to_end()

    s = await stage(afterthought, route={"retries": 3})
    client = await s.client()
    for _ in range(10):
        answer = await ask(client, request("/api/x", s.key))
        assert answer.body == b"mine"
        await until(lambda: all(not pool.open_connections for pool in s.inside.gateway.pools._pools.values()))


# -- Redis and Postgres fail


async def test_without_redis_nothing_is_let_through_uncounted(
    stage: MakeStage, postgres_url: str, redis_url: str, books: Books
) -> None:
    s = await stage(answering(ok()), tier=TIER)
    async with (
        Relay(redis_url) as relay,
        InProcessGateway(postgres_url, relay.url) as inside,
    ):
        await inside.ready()
        async with await connect(*inside.address) as client:
            assert (await ask(client, request("/api/x", s.key))).status == 200
            relay.is_away = True
            await relay.cut()
            await until(lambda: not inside.gateway.limiter.redis.available)
            answer = await ask(client, request("/api/x", s.key))
            assert (answer.status, answer.json()["code"]) == (503, "limits_unavailable")
            assert answer.headers["retry-after"] == "1"
            relay.is_away = False
            await inside.ready()
            assert (await ask(client, request("/api/x", s.key))).status == 200
        await inside.settled()
    assert len(await books.events()) == 2
    assert await books.quotas() == {"requests": 2}


async def test_a_slow_redis_costs_one_deadline_and_then_nothing(
    stage: MakeStage, redis_client: redis.asyncio.Redis, books: Books
) -> None:
    s = await stage(answering(ok()), tier=TIER)
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    await redis_client.client_pause(800)
    took = []
    for _ in range(4):
        began = time.monotonic()
        assert (await ask(client, request("/api/x", s.key))).status == 503
        took.append(time.monotonic() - began)
    assert took[0] > 0.08
    assert sorted(took[1:])[1] < 0.05
    await s.inside.ready()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    await s.inside.settled()
    assert await books.quotas() == {"requests": 2}


async def test_when_usage_cannot_be_stored_nothing_is_let_through(stage: MakeStage, books: Books) -> None:
    s = await stage(answering(ok()), tier=TIER)
    client = await s.client()
    s.inside.gateway.limiter.settlements.backlogged = True
    answer = await ask(client, request("/api/x", s.key))
    assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "backlog_full", "1")
    s.inside.gateway.limiter.settlements.backlogged = False
    assert (await ask(client, request("/api/x", s.key))).status == 200


async def test_without_postgres_known_keys_go_on_and_unknown_ones_are_a_503(
    stage: MakeStage, catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    s = await stage(answering(ok()), tier=TIER)
    stranger = await catalogue.key()
    async with Relay(postgres_url) as relay, InProcessGateway(relay.url, redis_url) as inside:
        await inside.ready()
        async with await connect(*inside.address) as client:
            assert (await ask(client, request("/api/x", s.key))).status == 200
            relay.is_away = True
            await relay.cut()
            await until(lambda: not inside.gateway.snapshot.is_connected)
            assert (await ask(client, request("/api/x", s.key))).status == 200
            for lines in ([], ["X-User-Id: bob"]):
                answer = await ask(client, request("/api/x", stranger, *lines))
                assert (answer.status, answer.json()["code"]) == (503, "auth_unavailable")
                assert answer.headers["retry-after"] == "1"
            relay.is_away = False
            await until(lambda: inside.gateway.snapshot.is_connected)
            assert (await ask(client, request("/api/x", stranger))).status == 200


async def test_a_gateway_that_never_reached_postgres_says_that_it_is_starting(redis_url: str) -> None:
    async with (
        InProcessGateway("postgresql://nobody@127.0.0.1:1/none", redis_url) as inside,
        await connect(*inside.address) as client,
    ):
        answer = await ask(client, request("/api/x", "whatever"))
        assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "starting", "1")
