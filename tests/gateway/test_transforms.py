"""What a route changes on the way: header fields in both directions, and the path."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.gateway.conftest import MakeStage
from tests.gateway.test_pipeline import fields_of
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import Catalogue, until

HELLO = answering(ok(b"hello"))


async def test_request_fields_are_set_added_and_removed(stage: MakeStage) -> None:
    rules = {
        "set": {"X-Set": "ours", "User-Agent": "tollgate"},
        "add": {"X-Add": "ours"},
        "remove": ["Cookie", "X-User-Id", "X-Forwarded-For", "X-Forwarded-Host", "Via"],
    }
    s = await stage(HELLO, route={"request_headers": rules})
    client = await s.client()
    lines = [
        "x-SET: theirs",
        "X_Set: theirs",
        "X-Add: theirs",
        "Cookie: a=b",
        "cookie: c=d",
        "User-Agent: curl",
        "A: kept",
    ]
    for _ in range(2):  # as a new caller, and as one that is remembered
        assert (await ask(client, request("/api/x", s.key, *lines))).status == 200
    head = s.upstream.received[0].split(b"\r\n\r\n")[1]
    sent = [line for line in head.decode().split("\r\n") if not line.startswith(("Host", "X-Request-Id"))]
    assert sent == [
        "GET /x HTTP/1.1",
        "X-Add: theirs",
        "A: kept",
        "X-Forwarded-Proto: http",
        "X-Set: ours",
        "User-Agent: tollgate",
        "X-Add: ours",
    ]


async def test_a_rule_cannot_take_the_credentials_place(stage: MakeStage) -> None:
    s = await stage(
        HELLO,
        route={"request_headers": {"set": {"X-Key": "rule"}}, "credential": {"header": "x-key", "value": "secret"}},
    )
    await ask(await s.client(), request(key=s.key))
    assert (b"x-key: secret" in s.upstream.received[0], b"rule" in s.upstream.received[0]) == (True, False)


async def test_answer_fields_are_set_added_and_removed(stage: MakeStage, catalogue: Catalogue) -> None:
    rules = {"set": {"Cache-Control": "no-store"}, "add": {"X-Add": "ours"}, "remove": ["Server", "Set-Cookie"]}
    fields = [b"Server: x", b"X-Add: theirs", b"cache-control: public", b"Set-Cookie: a", b"Set-Cookie: b", b"A: kept"]
    s = await stage(
        answering(ok(b"one", *fields), ok(b"one", *fields), ok(b"three", b"Server: y", status=b"404 Gone  away")),
        route={"response_headers": rules},
    )
    await catalogue.route("plain", "/plain/*", [(s.upstream.host, s.upstream.port)])
    await until(lambda: len(s.inside.gateway.snapshot.table.by_id) == 2)
    client = await s.client()
    first, second, third = [await ask(client, request(key=s.key)) for _ in range(3)]
    ours = ["X-Add: theirs", "A: kept", "Cache-Control: no-store", "X-Add: ours"]
    for answer in (first, second):
        assert answer.body == b"one"
        lines = answer.head.decode().split("\r\n")
        assert [line for line in lines if line in ours or line[:6].lower() in ("server", "set-co", "cache-")] == ours
    assert third.head.startswith(
        b"HTTP/1.1 404 Gone  away\r\nContent-Length: 5\r\nCache-Control: no-store\r\nX-Add: ours\r\n"
    )
    assert b"Server: x" in (await ask(client, request("/plain/x", s.key))).head  # other routes are left alone


async def test_the_gateways_own_answers_are_left_alone(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"response_headers": {"set": {"X-Add": "ours"}}})
    refused = await ask(await s.client(), request())
    assert (refused.status, "x-add" in refused.headers) == (401, False)


@pytest.mark.parametrize(
    ("path", "rewrite", "target", "sent"),
    [
        ("/v1/users/{id}", "/people/{id}/profile", "/v1/users/7?a=1", b"/people/7/profile?a=1"),
        ("/v1/{org}/users/{id}", "/{id}/of/{org}", "/v1/acme/users/7", b"/7/of/acme"),
        ("/v1/{org}/*", "/{org}/v2/*", "/v1/acme/a/b//c", b"/acme/v2/a/b/c"),
        ("/v1/{org}/*", "/{org}/v2/*", "/v1/acme/", b"/acme/v2/"),
        ("/v1/*", "/*", "/v1/a%2fb/%2e%20", b"/a%2Fb/.%20"),
        ("/v1/*", "/all", "/v1/a/b", b"/all"),
        ("/*", "/v2/*", "/a/b/", b"/v2/a/b/"),
        ("/v1/old", "/v2/new", "/v1/old", b"/v2/new"),
        ("/v1/old", "/", "/v1/old?x", b"/?x"),
    ],
)
async def test_a_path_is_rewritten(stage: MakeStage, path: str, rewrite: str, target: str, sent: bytes) -> None:
    s = await stage(HELLO, route={"path": path, "rewrite": rewrite})
    assert (await ask(await s.client(), request(target, s.key))).status == 200
    assert s.upstream.received[0].split(b" ")[1] == sent


async def test_a_base_path_goes_before_a_rewritten_one(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(HELLO, route={"path": "/unused"})
    origin = f"http://127.0.0.1:{s.upstream.port}/base"
    await catalogue.route("based", "/b/{id}", [origin], rewrite="/r/{id}", preserve_host=True)
    await until(lambda: len(s.inside.gateway.snapshot.table.by_id) == 2)
    assert (await ask(await s.client(), request("/b/1", s.key))).status == 200
    assert s.upstream.received[0].startswith(b"GET /base/r/1 HTTP/1.1\r\n")
    assert fields_of(s.upstream.received[0])["Host"] == "gateway.test"


@pytest.mark.parametrize("target", ["/v1/..", "/v1/%2e%2e", "/v1/..;x", "/v1/%2E./x"])
async def test_no_rewriting_makes_a_dot_segment(stage: MakeStage, target: str) -> None:
    s = await stage(HELLO, route={"path": "/v1/{id}", "rewrite": "/safe/{id}/x"})
    client = await s.client()
    assert (await ask(client, request(target, s.key))).status in (400, 404)
    assert s.upstream.received == []


async def test_rules_that_change_take_effect(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(HELLO, route={"response_headers": {"set": {"X-Add": "first"}}})
    client = await s.client()
    assert (await ask(client, request(key=s.key))).headers["x-add"] == "first"
    changed: dict[str, Any] = {"set": {"X-Add": "second"}, "add": {}, "remove": []}
    await catalogue.pg.execute(
        "UPDATE routes SET spec = spec || $1", f'{{"response_headers": {orjson.dumps(changed).decode()}}}'
    )
    await s.inside.caught_up(catalogue.pg)
    await until(
        lambda: s.inside.gateway.snapshot.table.by_id[s.route_id].spec.response_headers.set["X-Add"] == "second"
    )
    assert (await ask(client, request(key=s.key))).headers["x-add"] == "second"
