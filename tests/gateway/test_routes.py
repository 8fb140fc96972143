"""The gateway's own endpoints: /health, /ready, POST /api/data, GET /api/usage."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest
import redis.asyncio

from ledger.events import decode
from ledger.ids import customer_id_for
from tests.gateway.conftest import MakeStage
from tests.gateway.faults import Relay
from tests.gateway.wire import Answer, answering, ask, ok, read_answer, request
from tests.support.gateway import PROJECT, Books, Catalogue, InProcessGateway, until
from tests.support.raw import connect

HELLO = answering(ok())
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def count(key: str | None, *lines: str, **asked: Any) -> bytes:
    """POST /api/data with a JSON body."""
    return request("/api/data", key, *lines, method="POST", body=orjson.dumps(asked))


# -- /health and /ready


async def test_health_is_that_the_process_serves(redis_url: str) -> None:
    async with (
        InProcessGateway("postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1") as inside,
        await connect(*inside.address) as client,
    ):
        answer = await ask(client, request("/health"))
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        head = await ask(client, request("/health", method="HEAD"))
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))


async def test_ready_names_what_is_missing(postgres_url: str, redis_url: str, catalogue: Catalogue) -> None:
    async with (
        Relay(postgres_url) as postgres,
        Relay(redis_url) as keys,
        InProcessGateway(postgres.url, keys.url, poll_interval_ms=20) as inside,
        await connect(*inside.address) as client,
    ):
        await inside.ready()
        fine = {
            "routes": "ok", "postgres": "ok", "redis": "ok", "counters": "ok", "backlog": "ok", "spool": "empty",
            "draining": "no",
        }  # fmt: skip
        closed = await catalogue.route("closed", "/closed/*", ["http://127.0.0.1:1"])

        async def ready() -> tuple[int, dict[str, str]]:
            answer = await ask(client, request("/ready"))
            assert answer.json()["status"] == ("ready" if answer.status == 200 else "not ready")
            return answer.status, answer.json()["checks"]

        assert await ready() == (200, fine)
        # without Postgres what is known goes on; without Redis, only a route that does without it
        for relay, name, status in ((postgres, "postgres", 200), (keys, "redis", 503)):
            relay.is_away = True
            await relay.cut()

            async def is_missing(name: str = name, status: int = status) -> bool:
                unknown = {"counters": "unknown"} if name == "redis" else {}
                return await ready() == (status, {**fine, name: "unavailable", **unknown})

            await until(is_missing)
            if name == "redis":
                await catalogue.pg.execute(
                    'UPDATE routes SET spec = spec || \'{"on_store_failure": "share"}\' WHERE id = $1', closed
                )
                await inside.caught_up(catalogue.pg)
                assert await ready() == (200, {**fine, "redis": "unavailable", "counters": "unknown"})
            relay.is_away = False

            async def is_back() -> bool:
                return await ready() == (200, fine)

            await until(is_back)
        inside.gateway.limiter.settlements.backlogged = True
        assert await ready() == (503, {**fine, "backlog": "full"})
        inside.gateway.limiter.settlements.backlogged = False
        inside.gateway.is_draining = True
        assert await ready() == (503, {**fine, "draining": "yes"})


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/ready", "GET, HEAD"),
        ("GET", "/api/data", "POST"),
        ("PUT", "/api/data", "POST"),
        ("POST", "/api/usage", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_a_405_that_names_the_right_ones(
    stage: MakeStage, method: str, target: str, allow: str
) -> None:
    s = await stage(HELLO, route={"path": "/*"})
    answer = await ask(await s.client(), request(target, s.key, method=method))
    assert (answer.status, answer.headers["allow"], answer.json()["code"]) == (405, allow, "method_not_allowed")
    assert s.upstream.received == []


# -- POST /api/data


async def test_a_count_is_made_and_told(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 10, "quotas": {"tokens": 100}})
    client = await s.client()
    answer = await ask(client, count(s.key, meter="tokens", quantity=30))
    assert answer.status == 200
    told = answer.json()
    assert _TIME.fullmatch(told["usage"].pop("periodStart"))
    assert _TIME.fullmatch(told["usage"].pop("periodEnd"))
    assert told == {
        "success": True,
        "allowed": True,
        "userId": "ada",
        "usage": {"meter": "tokens", "count": 30, "limit": 100, "plan": "free", "remaining": 70},
    }
    assert answer.headers["ratelimit"].startswith('"minute";r=9;t=60, "tokens";r=70;t=')
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 30}
    assert await books.reservations() == []
    [event] = await books.events()
    found = decode(orjson.dumps(event))
    assert (found.outcome, found.status, found.method, found.route) == ("counted", 200, "POST", None)
    assert (found.meters, found.idem) == ({"tokens": 30}, None)
    assert s.upstream.received == []


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"quantity": 1}', b'{"meter":"requests","quantity":1,"idempotencyKey":null}']
)
async def test_by_default_it_is_one_request(stage: MakeStage, books: Books, body: bytes) -> None:
    s = await stage(HELLO)
    answer = await ask(await s.client(), request("/api/data", s.key, method="POST", body=body))
    assert (answer.status, answer.json()["usage"]["meter"], answer.json()["usage"]["count"]) == (200, "requests", 1)
    assert (answer.json()["usage"]["limit"], answer.json()["usage"]["remaining"]) == (None, None)


async def test_at_the_limit_it_is_a_403_of_its_own_form(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"quotas": {"tokens": 100}})
    client = await s.client()
    assert (await ask(client, count(s.key, meter="tokens", quantity=90))).status == 200
    answer = await ask(client, count(s.key, meter="tokens", quantity=11))
    assert (answer.status, answer.headers["content-type"]) == (403, "application/json")
    assert answer.json() == {
        "error": "Tier limit reached",
        "count": 90,
        "limit": 100,
        "plan": "free",
        "message": "The plan free includes 100 tokens in this period. Upgrade for more.",
    }
    assert int(answer.headers["retry-after"]) > 0
    assert (await ask(client, count(s.key, meter="tokens", quantity=10))).status == 200
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 100}
    assert len(await books.events()) == 2


async def test_too_many_counts_a_minute_are_a_429(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 2})
    client = await s.client()
    answers = [await ask(client, count(s.key)) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "rate_limited"
    assert answers[2].headers["retry-after"] == "60"
    await s.inside.settled()
    assert len(await books.events()) == 2


async def test_many_counts_at_once_stop_exactly_at_the_limit(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"quotas": {"tokens": 100}})
    clients = [await s.client() for _ in range(15)]
    answers = await asyncio.gather(*(ask(client, count(s.key, meter="tokens", quantity=9)) for client in clients))
    assert sorted(answer.status for answer in answers) == [200] * 11 + [403] * 4
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 99}


async def test_a_secret_key_counts_for_whom_it_names(stage: MakeStage, catalogue: Catalogue, books: Books) -> None:
    s = await stage(HELLO, tier={"quotas": {"requests": 5}})
    secret = await catalogue.key("sk")
    client = await s.client()
    for_bob = await ask(client, count(secret, "X-User-Id: bob"))
    assert (for_bob.json()["userId"], for_bob.json()["usage"]["limit"]) == ("bob", 5)
    for_nobody = await ask(client, count(secret))
    assert (for_nobody.json()["userId"], for_nobody.json()["usage"]["limit"]) == (None, None)
    await s.inside.settled()
    customers = {event["customer"] for event in await books.events()}
    assert customers == {customer_id_for(PROJECT, "live", "bob"), None}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"nonsense", "not JSON"),
        (b'{"quantity":1', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 2_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"metre":"requests"}', "metre"),
        (b'{"meter":""}', "meter"),
        (b'{"meter":"Tokens"}', "meter"),
        (b'{"meter":"a:b"}', "meter"),
        (b'{"meter":5}', "meter"),
        (b'{"quantity":0}', "quantity"),
        (b'{"quantity":-1}', "quantity"),
        (b'{"quantity":1.5}', "quantity"),
        (b'{"quantity":1e3}', "quantity"),
        (b'{"quantity":true}', "quantity"),
        (b'{"quantity":"1"}', "quantity"),
        (b'{"quantity":9007199254740993}', "quantity"),
        (b'{"quantity":9223372036854775808}', "quantity"),
        (b'{"quantity":NaN}', "not JSON"),
        (b'{"quantity":99999999999999999999999}', "quantity"),
        (b'{"idempotencyKey":""}', "idempotencyKey"),
        (b'{"idempotencyKey":7}', "idempotencyKey"),
        (b'{"idempotencyKey":"a\\u0000b"}', "idempotencyKey"),
        (b'{"idempotencyKey":"%b"}' % (b"x" * 256), "idempotencyKey"),
    ],
)
async def test_what_makes_no_sense_is_a_422_that_names_it(
    stage: MakeStage, books: Books, body: bytes, says: str
) -> None:
    s = await stage(HELLO)
    client = await s.client()
    answer = await ask(client, request("/api/data", s.key, method="POST", body=body))
    assert (answer.status, answer.json()["code"]) == (422, "invalid")
    assert says in answer.json()["detail"]
    assert (await ask(client, request("/health"))).status == 200
    assert await books.events() == []


@pytest.mark.parametrize("framing", ["length", "chunked at once", "chunked later", "chunked in small pieces"])
async def test_a_body_that_is_too_large_is_a_413(stage: MakeStage, books: Books, framing: str) -> None:
    s = await stage(HELLO)
    client = await s.client()
    large = b" " * 70_000
    if framing == "length":
        await client.send(request("/api/data", s.key, method="POST", body=large))
    else:
        head = request("/api/data", s.key, "Transfer-Encoding: chunked", method="POST")
        chunk = b"11170\r\n%b\r\n0\r\n\r\n" % large
        pieces = {"chunked at once": (), "chunked later": (len(head),)}
        cuts = pieces.get(framing, tuple(range(len(head), len(head) + 70_000, 10_000)))
        await client.send(head + chunk, pause_after=cuts)
    answer = await read_answer(client)
    assert (answer.status, answer.json()["code"]) == (413, "body_too_large")
    await client.close()
    await s.inside.settled()
    assert await books.reservations() == []


@pytest.mark.parametrize("key", [None, "nonsense", "pk"])
async def test_without_the_right_key_nothing_is_counted(
    stage: MakeStage, catalogue: Catalogue, books: Books, key: str | None
) -> None:
    s = await stage(HELLO)
    text = await catalogue.key("pk") if key == "pk" else key
    client = await s.client()
    for data in (count(text), request("/api/usage", text)):
        answer = await ask(client, data)
        assert answer.status == (403 if key == "pk" else 401)
    assert await books.events() == []


# -- counting once


async def test_the_same_count_is_made_once(stage: MakeStage, catalogue: Catalogue, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 100, "quotas": {"tokens": 100}})
    client = await s.client()
    again = [await ask(client, count(s.key, meter="tokens", quantity=7, idempotencyKey="a-1")) for _ in range(3)]
    assert [answer.status for answer in again] == [200] * 3
    assert [answer.json()["usage"]["count"] for answer in again] == [7] * 3
    assert again[0].json() == again[2].json()
    assert (await ask(client, count(s.key, meter="tokens", quantity=7, idempotencyKey="a-2"))).json()["usage"][
        "count"
    ] == 14
    bob = await catalogue.key("ck", customer=await catalogue.customer("bob"))
    assert (await ask(client, count(bob, meter="tokens", quantity=7, idempotencyKey="a-1"))).json()["usage"][
        "count"
    ] == 7
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 21}
    assert sorted(event["idem"] for event in await books.events()) == ["a-1", "a-1", "a-2"]  # of ada, of bob


async def test_many_at_once_count_once(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO)
    clients = [await s.client() for _ in range(20)]
    answers = await asyncio.gather(*(ask(client, count(s.key, idempotencyKey='"quoted"')) for client in clients))
    assert {answer.status for answer in answers} == {200}
    await s.inside.settled()
    assert await books.quotas() == {"requests": 1}
    assert [event["idem"] for event in await books.events()] == ['"quoted"']


async def test_a_count_that_was_refused_may_be_tried_again(stage: MakeStage, pg: Any) -> None:
    s = await stage(HELLO, tier={"quotas": {"tokens": 5}})
    client = await s.client()
    data = count(s.key, meter="tokens", quantity=7, idempotencyKey="a-1")
    assert (await ask(client, data)).status == 403
    await pg.execute("UPDATE tier_quotas SET quota = 10")
    await s.inside.caught_up(pg)
    assert (await ask(client, data)).status == 200


@pytest.mark.parametrize("trouble", ["too late", "client gone", "reply lost"])
async def test_a_count_whose_answer_never_came_is_made_once_however_often_it_is_tried(
    stage: MakeStage, redis_client: redis.asyncio.Redis, postgres_url: str, redis_url: str, books: Books, trouble: str
) -> None:
    """The count may have been made, nobody knows; what counts is that trying again makes it exactly once."""
    s = await stage(HELLO, tier={"quotas": {"tokens": 100}})
    data = count(s.key, meter="tokens", quantity=7, idempotencyKey="a-1")
    async with Relay(redis_url) as relay, InProcessGateway(postgres_url, relay.url) as inside:
        await inside.ready()
        async with await connect(*inside.address) as client:
            assert (await ask(client, count(s.key, meter="tokens", quantity=1))).status == 200
        await inside.settled()

        async def first_try() -> Answer | None:
            async with await connect(*inside.address) as client:
                await client.send(data)
                if trouble == "client gone":
                    await until(lambda: any(c.is_busy for c in inside.door.connections))
                    return None
                return await read_answer(client)

        if trouble == "reply lost":
            relay.swallows_replies = True
        else:
            await redis_client.client_pause(200)
        trying = asyncio.create_task(first_try())
        if trouble == "reply lost":
            await until(lambda: relay.replies_swallowed)
            relay.swallows_replies = False
            await relay.cut()
        answer = await trying
        assert answer is None or answer.status == 503
        await until(lambda: inside.gateway.limiter.redis.available)
        async with await connect(*inside.address) as client:
            while (again := await ask(client, data)).status == 503:
                await inside.ready()
            assert (again.status, again.json()["usage"]["count"]) == (200, 8)
        await inside.settled()
    assert await books.quotas() == {"tokens": 8}
    assert await books.reservations() == []
    assert [event.get("idem") for event in await books.events()] == [None, "a-1"]


async def test_a_count_without_a_key_of_its_own_whose_answer_never_came_is_not_made(
    stage: MakeStage, redis_client: redis.asyncio.Redis, books: Books
) -> None:
    s = await stage(HELLO, tier={"quotas": {"tokens": 100}})
    client = await s.client()
    assert (await ask(client, count(s.key, meter="tokens"))).status == 200
    await redis_client.client_pause(200)
    assert (await ask(client, count(s.key, meter="tokens"))).status == 503
    await s.inside.ready()
    await s.inside.settled()
    assert await books.quotas() == {"tokens": 1}
    assert len(await books.events()) == 1


# -- GET /api/usage


async def test_usage_is_told_without_counting(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 2, "quotas": {"requests": 5, "tokens": 100}})
    client = await s.client()
    await ask(client, request("/api/x", s.key))
    await ask(client, count(s.key, meter="tokens", quantity=40))
    for _ in range(5):  # more often than counting would be allowed
        answer = await ask(client, request("/api/usage", s.key))
        assert answer.status == 200
        told = answer.json()
        assert told["userId"] == "ada"
        assert (told["usage"]["meter"], told["usage"]["count"], told["usage"]["remaining"]) == ("requests", 1, 4)
    tokens = (await ask(client, request("/api/usage?a=b&meter=tokens", s.key))).json()["usage"]
    assert (tokens["count"], tokens["limit"], tokens["remaining"], tokens["plan"]) == (40, 100, 60, "free")
    other = (await ask(client, request("/api/usage?meter=other", s.key))).json()["usage"]
    assert (other["count"], other["limit"]) == (0, None)
    await s.inside.settled()
    assert len(await books.events()) == 2
    assert await books.quotas() == {"requests": 1, "tokens": 40}


@pytest.mark.parametrize("query", ["meter=", "meter=A", "meter=a%20b", "meter=a:b"])
async def test_usage_of_what_is_no_meter_is_a_422(stage: MakeStage, query: str) -> None:
    s = await stage(HELLO)
    answer = await ask(await s.client(), request(f"/api/usage?{query}", s.key))
    assert (answer.status, answer.json()["code"]) == (422, "invalid")


async def test_usage_cannot_be_told_while_redis_is_slow_or_away(
    stage: MakeStage, redis_client: redis.asyncio.Redis
) -> None:
    s = await stage(HELLO)
    client = await s.client()
    await redis_client.client_pause(250)
    for _ in range(2):  # the one that waits for the deadline, and the one that need not
        answer = await ask(client, request("/api/usage", s.key))
        assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "limits_unavailable", "1")
    await s.inside.ready()
    assert (await ask(client, request("/api/usage", s.key))).status == 200


async def test_a_client_that_leaves_while_usage_is_asked_disturbs_nobody(
    stage: MakeStage, redis_client: redis.asyncio.Redis
) -> None:
    s = await stage(HELLO, store_deadline_ms=2_000)
    leaving, staying = await s.client(), await s.client()
    assert (await ask(leaving, request("/api/usage", s.key))).status == 200
    await redis_client.client_pause(150)
    await leaving.send(request("/api/usage", s.key))
    await until(lambda: any(c.is_busy for c in s.inside.door.connections))
    await leaving.close()
    assert (await ask(staying, request("/api/usage", s.key))).status == 200
    await until(lambda: len(s.inside.door.connections) == 1)
