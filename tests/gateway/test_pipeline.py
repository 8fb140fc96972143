"""The life of a request through a whole gateway: what reaches the upstream, what comes back, what is counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
import redis.asyncio

from ledger import names
from ledger.events import decode
from ledger.ids import customer_id_for
from ledger.keys import hash_key
from tests.gateway.conftest import MakeStage
from tests.gateway.wire import Answer, answering, ask, ok, read_answer, read_request, request
from tests.support.gateway import PROJECT, SHARDS, Books, Catalogue, until
from tests.support.raw import Peer

HELLO = answering(ok(b"hello"))


def fields_of(head: bytes) -> dict[str, str]:
    """Header fields of a request as it was on the wire, names as sent."""
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)


# -- what goes through


async def test_a_request_goes_through_and_is_counted(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 10, "quotas": {"requests": 100}})
    answer = await ask(await s.client(), request("/api/x?a=1", s.key, "Accept: */*", "X-Odd-CASE:  kept "))
    assert (answer.status, answer.body) == (200, b"hello")

    [sent] = s.upstream.received
    assert sent.startswith(b"GET /x?a=1 HTTP/1.1\r\n")
    assert b"\r\nX-Odd-CASE:  kept \r\n" in sent
    assert fields_of(sent) == {
        "Host": f"127.0.0.1:{s.upstream.port}",
        "Accept": "*/*",
        "X-Odd-CASE": " kept ",
        "Via": "1.1 tollgate",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "gateway.test",
        "X-User-Id": "ada",
        "X-Request-Id": answer.headers["x-request-id"],
    }
    assert answer.headers["ratelimit-policy"].startswith('"minute";q=10;w=60, "requests";q=100;w=')
    assert answer.headers["ratelimit"].startswith('"minute";r=9;t=60, "requests";r=99;t=')
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("10", "9")

    await s.inside.settled()
    assert await books.reservations() == []
    assert await books.quotas() == {"requests": 1}
    [event] = await books.events()
    found = decode(orjson.dumps(event))  # the ledger takes it
    assert found.id.hex == answer.headers["x-request-id"]
    assert abs(found.at_ms / 1000 - time.time()) < 5
    assert (found.project, found.mode, found.customer) == (PROJECT, "live", customer_id_for(PROJECT, "live", "ada"))
    assert (found.route, found.method, found.status, found.outcome) == (s.route_id, "GET", 200, "completed")
    assert found.meters == {"requests": 1, "bytes_in": 0, "bytes_out": 5}
    assert found.key is not None
    assert 0 < found.upstream_us <= found.duration_us < 5_000_000


async def test_bodies_pass_both_ways_and_are_counted(stage: MakeStage, books: Books) -> None:
    async def echo(peer: Peer) -> None:
        for _ in range(2):
            _, _, body = (await read_request(peer)).partition(b"\r\n\r\n")
            await peer.send(ok(body))

    s = await stage(echo, route={"meters": {"requests": 1, "units": 3}})
    client = await s.client()
    assert (await ask(client, request(key=s.key, method="POST", body=b"some body"))).body == b"some body"
    chunked = request("/api/x", s.key, "Transfer-Encoding: chunked", method="POST") + b"4\r\nsome\r\n0\r\n\r\n"
    assert (await ask(client, chunked)).body == b"4\r\nsome\r\n0\r\n\r\n"
    await s.inside.settled()
    meters = [event["meters"] for event in await books.events()]
    assert meters == [
        {"requests": 1, "units": 3, "bytes_in": 9, "bytes_out": 9},
        {"requests": 1, "units": 3, "bytes_in": 4, "bytes_out": 14},
    ]


@pytest.mark.parametrize(
    ("route", "target", "sent"),
    [
        ({}, "/api/a/b?c", b"/a/b?c"),
        ({}, "/api/", b"/"),
        ({}, "/api//a//b", b"/a/b"),
        ({}, "/api/%61%2f%e2?x=%41", b"/a%2F%E2?x=%41"),
        ({}, "/api/?", b"/?"),
        ({"strip_prefix": False}, "/api/a", b"/api/a"),
        ({"path": "/api/exact"}, "/api/exact?q", b"/api/exact?q"),
        ({"path": "/*"}, "/a/b", b"/a/b"),
        ({"path": "/v1/deep/*"}, "/v1/deep/a/b", b"/a/b"),
    ],
)
async def test_the_path_that_is_sent_on(stage: MakeStage, route: dict[str, Any], target: str, sent: bytes) -> None:
    s = await stage(HELLO, route=route)
    assert (await ask(await s.client(), request(target, s.key))).status == 200
    assert s.upstream.received[0].split(b" ")[1] == sent


async def test_the_upstreams_base_path_comes_first(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(HELLO, route={"path": "/unused"})
    await catalogue.route("based", "/based/*", [f"http://127.0.0.1:{s.upstream.port}/base/v1/"])
    await until(lambda: len(s.inside.gateway.snapshot.table.by_id) == 2)
    assert (await ask(await s.client(), request("/based/x", s.key))).status == 200
    assert s.upstream.received[0].startswith(b"GET /base/v1/x HTTP/1.1\r\n")


async def test_the_clients_host_is_sent_on_where_the_route_says_so(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"preserve_host": True})
    await ask(await s.client(), request(key=s.key))
    assert fields_of(s.upstream.received[0])["Host"] == "gateway.test"


@pytest.mark.parametrize(
    ("upstream", "method", "head", "body"),
    [
        (ok(b"hello", b"X: y"), "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n", b"hello"),
        (ok(b"hello").removesuffix(b"hello"), "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "GET", b"HTTP/1.1 204 No Content\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: 1\r\n\r\n", "GET", b"HTTP/1.1 304 Not Modified\r\nETag: 1\r\n", b""),
        (
            b"HTTP/1.1 299 Odd  one\r\nContent-Length: 1\r\n\r\nx",
            "GET",
            b"HTTP/1.1 299 Odd  one\r\nContent-Length: 1\r\n",
            b"x",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\nX-Sum: 1\r\n\r\n",
            "GET",
            b"HTTP/1.1 200 OK\r\n",
            b"6\r\nabcdef\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        (
            b"HTTP/1.0 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nall of it",
            "GET",
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n",
            b"9\r\nall of it\r\n0\r\n\r\n",
        ),
    ],
    ids=["length", "HEAD", "204", "304", "reason", "chunked", "until close"],
)
async def test_an_answer_passes_as_it_is(
    stage: MakeStage, upstream: bytes, method: str, head: bytes, body: bytes
) -> None:
    s = await stage(answering(upstream, forever=False))
    client = await s.client()
    await client.send(request("/api/x", s.key, "Connection: close", method=method))
    received = await client.read_to_end()
    received_head, _, received_body = received.partition(b"\r\n\r\n")
    assert received_head.startswith(head)
    rest = received_head.removeprefix(head).split(b"\r\n")
    names = sorted(line.partition(b":")[0] for line in rest)
    framing = [b"Transfer-Encoding"] if body.endswith(b"\r\n\r\n") else []
    assert names == sorted([b"Connection", b"X-Request-Id", *framing])
    assert received_body in (body, body.replace(b"6\r\nabcdef\r\n", b"3\r\nabc\r\n3\r\ndef\r\n"))


async def test_an_http_1_0_client_gets_what_it_can_read(stage: MakeStage) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    s = await stage(answering(ok(b"hello"), chunked))
    client = await s.client()
    head = f"GET /api/x HTTP/1.0\r\nX-API-Key: {s.key}\r\nConnection: keep-alive\r\n\r\n".encode()
    first = await ask(client, head)
    assert (first.body, first.headers["connection"]) == (b"hello", "keep-alive")
    await client.send(head)
    second = await client.read_to_end()
    assert second.endswith(b"\r\n\r\nabc")
    assert b"Transfer-Encoding" not in second


# -- who it is


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("Authorization: Bearer {key}", "/api/x"),
        ("X-API-Key: {key}", "/api/x"),
        ("X-Token: {key}", "/api/x"),
        ("A: b", "/api/x?a=1&token={key}&b=2"),
        ("A: b", "/api/x?token={key}"),
    ],
)
async def test_the_key_never_reaches_the_upstream(stage: MakeStage, line: str, target: str) -> None:
    s = await stage(HELLO, route={"key_header": "X-Token", "key_query": "token"})
    client = await s.client()
    for _ in range(2):  # as a new caller, and as one that is remembered
        answer = await ask(client, request(target.format(key=s.key), None, line.format(key=s.key)))
        assert answer.status == 200
    assert s.key.encode() not in s.upstream.received[0]
    assert s.upstream.received[0].split(b" ")[1] in (b"/x", b"/x?a=1&b=2")


async def test_a_route_for_everybody_does_not_leak_a_key_that_was_sent_anyway(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, route={"auth": "none"})
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    assert (await ask(client, request("/api/x", None, f"X-API-Key: {s.key}"))).status == 200
    assert (await ask(client, request("/api/x", None, "Authorization: Bearer theirs", "X-API-Key: own"))).status == 200
    [sent] = s.upstream.received
    assert s.key.encode() not in sent
    assert b"Authorization: Bearer theirs\r\n" in sent  # the upstream's own business
    assert b"X-API-Key: own\r\n" in sent
    await s.inside.settled()
    assert {event["customer"] for event in await books.events()} == {None}


async def test_what_a_client_claims_to_be_does_not_pass(stage: MakeStage) -> None:
    s = await stage(HELLO)
    forged = [
        "X-User-Id: admin", "X-User-Plan: enterprise", "X_User_Id: admin", "X-Forwarded-For: 1.2.3.4", "X-Real-IP: 1.2.3.4",
        "Forwarded: for=1.2.3.4", "X-Request-Id: forged", "Connection: X-User-Id, X-Forwarded-For, Via",
    ]  # fmt: skip
    await ask(await s.client(), request("/api/x", s.key, *forged))
    fields = fields_of(s.upstream.received[0])
    assert (fields["X-User-Id"], fields["X-Forwarded-For"]) == ("ada", "127.0.0.1")
    assert b"admin" not in s.upstream.received[0]
    assert b"1.2.3.4" not in s.upstream.received[0]
    assert b"forged" not in s.upstream.received[0]


async def test_a_secret_key_acts_for_an_end_user(stage: MakeStage, catalogue: Catalogue, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 5})
    await catalogue.tier("pro", per_minute=50)
    secret = await catalogue.key("sk")
    await s.inside.caught_up(catalogue.pg)
    client = await s.client()
    as_bob = await ask(client, request("/api/x", secret, "X-User-Id: bob"))
    assert as_bob.headers["x-ratelimit-limit"] == "5"  # the default tier
    as_pro = await ask(client, request("/api/x", secret, "X-User-Id: bob", "X-User-Plan: pro"))
    assert as_pro.headers["x-ratelimit-limit"] == "50"
    as_project = await ask(client, request("/api/x", secret))
    assert "x-ratelimit-limit" not in as_project.headers
    heads = [b"GET " + part for part in s.upstream.received[0].split(b"GET ")[1:]]
    assert [fields_of(head).get("X-User-Id") for head in heads] == ["bob", "bob", None]
    await s.inside.settled()
    bob = customer_id_for(PROJECT, "live", "bob")
    counted_for = Counter((event["customer"], event.get("external")) for event in await books.events())
    assert counted_for == {(bob, "bob"): 2, (None, None): 1}


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        (["X-User-Plan: pro"], 400, "bad_request"),
        (["X-User-Id: a b"], 400, "bad_request"),
        (["X-User-Id: \xe9"], 400, "bad_request"),
        (["X-User-Id:"], 400, "bad_request"),
        (["X-User-Id: " + "x" * 201], 400, "bad_request"),
        (["X-User-Id: a", "X-User-Id: a"], 400, "bad_request"),
        (["X-User-Id: a", "X-User-Plan: none"], 403, "tier_unknown"),
        (["X-User-Id: a", "X-User-Plan: \xe9"], 403, "tier_unknown"),
    ],
)
async def test_an_end_user_that_cannot_be_is_refused(
    stage: MakeStage, catalogue: Catalogue, lines: list[str], status: int, code: str
) -> None:
    s = await stage(HELLO)
    answer = await ask(await s.client(), request("/api/x", await catalogue.key("sk"), *lines))
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert s.upstream.received == []


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "no_credential"),
        (["Authorization: Basic dTpw"], "no_credential"),
        (["Authorization: Bearer nonsense"], "bad_credential"),
        (["Authorization: Bearer {wrong_checksum}"], "bad_credential"),
        (["Authorization: Bearer {unknown}"], "bad_credential"),
        (["Authorization: Bearer {key}", "X-API-Key: {key}"], "conflicting_credentials"),
        (["Authorization: Bearer {revoked}"], "key_revoked"),
        (["Authorization: Bearer {expired}"], "key_expired"),
    ],
)
async def test_without_a_good_key_nothing_is_forwarded(
    stage: MakeStage, catalogue: Catalogue, books: Books, lines: list[str], code: str
) -> None:
    s = await stage(HELLO)
    past = datetime.now(UTC) - timedelta(seconds=1)
    keys = {
        "key": s.key,
        "wrong_checksum": s.key[:-1] + ("a" if s.key[-1] != "a" else "b"),
        "unknown": await catalogue.key(),
        "revoked": await catalogue.key(revoked_at=past),
        "expired": await catalogue.key(expires_at=past),
    }
    await catalogue.pg.execute("DELETE FROM keys WHERE hash = $1", hash_key(keys["unknown"].encode()))
    await s.inside.caught_up(catalogue.pg)
    client = await s.client()
    for _ in range(2):
        answer = await ask(client, request("/api/x", None, *(line.format(**keys) for line in lines)))
        assert (answer.status, answer.json()["code"]) == (401, code)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="tollgate"')
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    await s.inside.settled()
    assert s.upstream.received == []
    assert await books.events() == []


@pytest.mark.parametrize(
    ("columns", "lines", "code"),
    [
        ({"scopes": ["other"]}, [], "scope_missing"),
        ({"allowed_origins": ["*.good.test"]}, ["Origin: https://evil.test"], "origin_not_allowed"),
        ({"allowed_origins": ["*.good.test"]}, ["Origin: http://["], "origin_not_allowed"),
        ({"allowed_ips": ["10.0.0.0/8"]}, [], "ip_not_allowed"),
        ({"project": "prj_other"}, [], "wrong_project"),
    ],
)
async def test_a_key_that_may_not_is_forbidden(
    stage: MakeStage, catalogue: Catalogue, columns: dict[str, Any], lines: list[str], code: str
) -> None:
    s = await stage(HELLO, route={"scopes": ("read",)})
    await catalogue.project("prj_other")
    key = await catalogue.key("sk", **columns)
    answer = await ask(await s.client(), request("/api/x", key, *lines))
    assert (answer.status, answer.json()["code"]) == (403, code)
    assert s.upstream.received == []


async def test_a_publishable_key_reads_and_nothing_else_on_one_connection(
    stage: MakeStage, catalogue: Catalogue
) -> None:
    s = await stage(HELLO)
    key = await catalogue.key("pk")
    client = await s.client()
    seen = [
        (await ask(client, request("/api/x", key, method=m))).status for m in ("GET", "DELETE", "HEAD", "PUT", "GET")
    ]
    assert seen == [200, 403, 200, 403, 200]


async def test_where_nothing_is_served_nothing_is_asked(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, route={"methods": ("GET", "HEAD")})
    client = await s.client()
    missing = await ask(client, request("/other", s.key))
    assert (missing.status, missing.json()["code"]) == (404, "not_found")
    wrong = await ask(client, request("/api/x", s.key, method="PATCH"))
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert await books.events() == []


async def test_one_connection_may_carry_many_callers(stage: MakeStage, catalogue: Catalogue, books: Books) -> None:
    """What is remembered of a head must not be used for another that looks alike."""
    s = await stage(HELLO)
    keys = {name: await catalogue.key("ck", customer=await catalogue.customer(name)) for name in ("bob", "cyd")}
    client = await s.client()
    for name in ("bob", "bob", "cyd", "bob", "cyd", "cyd"):
        assert (await ask(client, request("/api/x", keys[name]))).status == 200
        assert (await ask(client, request("/api/y", keys[name]))).status == 200
    heads = [b"GET " + part for part in s.upstream.received[0].split(b"GET ")[1:]]
    assert [fields_of(head)["X-User-Id"] for head in heads[::2]] == ["bob", "bob", "cyd", "bob", "cyd", "cyd"]
    assert [head.split(b" ")[1] for head in heads] == [b"/x", b"/y"] * 6
    await s.inside.settled()
    customers = [event["customer"] for event in await books.events()]
    assert customers.count(customer_id_for(PROJECT, "live", "bob")) == 6


# -- what changes while a connection is open


async def refused_within_a_second(client: Peer, data: bytes, status: int) -> Answer:
    deadline = time.monotonic() + 1.0
    while True:
        answer = await ask(client, data)
        if answer.status == status:
            return answer
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("UPDATE keys SET revoked_at = now()", 401),
        ("UPDATE keys SET allowed_ips = '{10.0.0.0/8}'", 403),
        ("DELETE FROM customers", 401),
        ("UPDATE routes SET spec = jsonb_set(spec, '{path}', '\"/moved/*\"'), path = '/moved/*'", 404),
        ("UPDATE tiers SET requests_per_minute = 1", 429),
    ],
)
async def test_a_connection_that_goes_on_learns_of_a_change_within_a_second(
    stage: MakeStage, pg: asyncpg.Connection, change: str, status: int
) -> None:
    s = await stage(HELLO)
    client = await s.client()
    for _ in range(3):
        assert (await ask(client, request("/api/x", s.key))).status == 200
    await pg.execute(change)
    await refused_within_a_second(client, request("/api/x", s.key), status)


async def test_a_keys_new_limit_counts_for_the_end_users_it_acts_for(
    stage: MakeStage, catalogue: Catalogue, pg: asyncpg.Connection
) -> None:
    s = await stage(HELLO)
    secret = await catalogue.key("sk", requests_per_minute=1)
    client = await s.client()
    acting = request("/api/x", secret, "X-User-Id: bob")
    assert [(await ask(client, acting)).status for _ in range(2)] == [200, 429]
    await pg.execute("UPDATE keys SET requests_per_minute = 1000 WHERE kind = 'sk'")
    answer = await refused_within_a_second(client, acting, 200)
    assert answer.headers["x-ratelimit-limit"] == "1000"


async def test_a_key_that_expires_is_refused_from_that_moment(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(HELLO)
    key = await catalogue.key("sk", expires_at=datetime.now(UTC) + timedelta(seconds=0.5))
    client = await s.client()
    assert (await ask(client, request("/api/x", key))).status == 200
    answer = await refused_within_a_second(client, request("/api/x", key), 401)
    assert answer.json()["code"] == "key_expired"


# -- how much


async def test_beyond_the_limit_nothing_is_forwarded(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 3})
    client = await s.client()
    answers = [await ask(client, request("/api/x", s.key)) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    for answer in answers[3:]:
        assert answer.json()["code"] == "rate_limited"
        assert answer.json()["violated-policies"] == ["minute"]
        assert answer.headers["retry-after"] in ("59", "60")
        assert answer.headers["ratelimit"].startswith('"minute";r=0;t=')
    await s.inside.settled()
    assert len(await books.events()) == 3
    assert s.upstream.received[0].count(b"GET ") == 3


async def test_a_used_up_quota_names_its_meter(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"quotas": {"units": 7}}, route={"meters": {"requests": 1, "units": 3}})
    client = await s.client()
    answers = [await ask(client, request("/api/x", s.key)) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert (answers[2].json()["code"], answers[2].json()["violated-policies"]) == ("quota_exceeded", ["units"])
    assert int(answers[2].headers["retry-after"]) > 0
    await s.inside.settled()
    assert await books.quotas() == {"requests": 2, "units": 6}


async def test_a_refusal_that_is_repeated_says_how_long_is_left_now(
    stage: MakeStage, redis_client: redis.asyncio.Redis
) -> None:
    s = await stage(HELLO, tier={"per_minute": 1})
    customer = customer_id_for(PROJECT, "live", "ada")
    window = names.window(names.shard_of(PROJECT, customer, SHARDS), customer)
    await redis_client.rpush(window, int(time.time() * 1000) - 58_500)
    client = await s.client()
    waits: list[tuple[str, str]] = []
    while (answer := await ask(client, request("/api/x", s.key))).status == 429:
        waits.append((answer.headers["retry-after"], answer.headers["x-ratelimit-reset"]))
        await asyncio.sleep(0.02)
    assert sorted(set(waits), reverse=True) == [("2", "2"), ("1", "1")]
    assert answer.status == 200
    assert waits == sorted(waits, reverse=True)


async def test_many_at_once_are_admitted_exactly_to_the_limit(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, tier={"per_minute": 30, "quotas": {"requests": 25}})
    clients = [await s.client() for _ in range(20)]

    async def five(client: Peer) -> list[int]:
        return [(await ask(client, request("/api/x", s.key))).status for _ in range(5)]

    statuses = [status for several in await asyncio.gather(*map(five, clients)) for status in several]
    assert (statuses.count(200), statuses.count(429)) == (25, 75)
    await s.inside.settled()
    assert len(await books.events()) == 25
    assert await books.quotas() == {"requests": 25}


# -- bodies that are too large


@pytest.mark.parametrize("size", [11, 100, 100_000])
@pytest.mark.parametrize("framing", ["length", "chunked in one", "chunked in two", "chunked later"])
async def test_a_body_that_is_too_large_is_refused(stage: MakeStage, books: Books, framing: str, size: int) -> None:
    s = await stage(answering(ok()), route={"max_body_bytes": 10})
    client = await s.client()
    if framing == "length":
        await client.send(request("/api/x", s.key, method="POST", body=b"x" * size))
    else:
        head = request("/api/x", s.key, "Transfer-Encoding: chunked", method="POST")
        chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
        if framing == "chunked in one":
            await client.send(head + chunk + b"0\r\n\r\n")
        elif framing == "chunked in two":
            await client.send(head + b"5\r\nxxxxx\r\n" + chunk + b"0\r\n\r\n", pause_after=(len(head) + 3,))
        else:
            await client.send(head)
            await until(lambda: s.upstream.received)
            await client.send(chunk + b"0\r\n\r\n")
    answer = await read_answer(client)
    assert answer.status == 413
    assert answer.json()["code"] == "body_too_large"
    await client.close()
    await s.inside.settled()
    assert await books.reservations() == []
    assert not any(b"x" * 11 in received for received in s.upstream.received)


async def test_a_body_of_the_largest_size_passes(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"max_body_bytes": 10})
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key, method="POST", body=b"x" * 10))).status == 200
    chunked = request("/api/x", s.key, "Transfer-Encoding: chunked", method="POST") + b"a\r\nxxxxxxxxxx\r\n0\r\n\r\n"
    assert (await ask(client, chunked)).status == 200
