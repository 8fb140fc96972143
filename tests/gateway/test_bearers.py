"""Routes that take tokens, from the client's request to the usage event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from tests.gateway.conftest import MakeStage, Stage
from tests.gateway.wire import Answer, answering, ask, ok, request
from tests.support.gateway import PROJECT, Books, Catalogue, until
from tests.support.issuer import ALGORITHMS, KeySetServer, SigningKey, declare, signing_key

KEY = signing_key("ES256")


@pytest.fixture
async def idp() -> AsyncIterator[KeySetServer]:
    """An identity provider with the key KEY."""
    async with KeySetServer(KEY) as server:
        yield server


Begin = Callable[..., Awaitable[Stage]]


@pytest.fixture
def begin(stage: MakeStage, idp: KeySetServer, pg: asyncpg.Connection, catalogue: Catalogue) -> Begin:
    """`await begin(route={…}, issuer={…})`: a stage whose route takes tokens of `idp`."""

    async def make(
        *, auth: str = "jwt", route: dict[str, Any] | None = None, issuer: dict[str, Any] | None = None, **settings: Any
    ) -> Stage:
        await declare(pg, PROJECT, idp.spec(**(issuer or {})))
        await catalogue.tier("pro", per_minute=1000, quotas={"requests": 1000})
        tier = {"per_minute": 100, "quotas": {"requests": 50}}
        return await stage(answering(ok(b"hello")), tier=tier, route={"auth": auth, **(route or {})}, **settings)

    return make


def token(idp: KeySetServer, key: SigningKey = KEY, **claims: Any) -> str:
    return key.token({"iss": idp.issuer, **claims}).decode()


async def _get(s: Stage, text: str | None, *lines: str, target: str = "/api/x") -> Answer:
    return await ask(await s.client(), request(target, text, *lines))


def _upstream_heads(s: Stage) -> bytes:
    return b"".join(bytes(received) for received in s.upstream.received)


async def test_a_request_with_a_token_is_served_and_counted_for_its_end_user(
    begin: Begin, idp: KeySetServer, books: Books
) -> None:
    s = await begin()
    answer = await _get(s, token(idp, sub="user_17"), "X-User-Id: somebody-else", "X-User-Plan: pro")
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["x-ratelimit-limit"] == "100"
    head = _upstream_heads(s)
    assert b"X-User-Id: user_17\r\n" in head
    assert b"somebody-else" not in head
    assert b"uthorization" not in head, "the token ends here"
    await s.inside.settled()
    [event] = await books.events()
    assert (event["external"], event["key"], event["mode"]) == ("user_17", None, "live")
    assert await books.reservations() == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm_works_end_to_end(begin: Begin, idp: KeySetServer, algorithm: str) -> None:
    idp.keys = [signing_key(algorithm)]
    s = await begin()
    assert (await _get(s, token(idp, signing_key(algorithm)))).status == 200


async def test_a_token_s_plan_is_the_tier_that_applies(begin: Begin, idp: KeySetServer) -> None:
    s = await begin(issuer={"claims": {"tier": "publicMetadata.plan"}})
    answer = await _get(s, token(idp, publicMetadata={"plan": "pro"}))
    assert answer.headers["x-ratelimit-limit"] == "1000"
    assert (await _get(s, token(idp))).headers["x-ratelimit-limit"] == "100", "the tier on record"
    for unknown in ("platinum", "", 7):
        answer = await _get(s, token(idp, publicMetadata={"plan": unknown}))
        assert (answer.status, answer.json()["code"]) == (403, "tier_unknown")
        assert "token" in answer.json()["detail"]


async def test_limits_are_those_of_the_end_user_whatever_token_or_key_speaks_for_him(
    begin: Begin, idp: KeySetServer, catalogue: Catalogue
) -> None:
    s = await begin(auth="key-or-jwt")
    secret = await catalogue.key("sk")
    by_token = await _get(s, token(idp, sub="bob"))
    by_another = await _get(s, token(idp, sub="bob", jti="2"))
    by_key = await _get(s, secret, "X-User-Id: bob")
    remaining = [a.headers["x-ratelimit-remaining"] for a in (by_token, by_another, by_key)]
    assert remaining == ["99", "98", "97"]


async def test_scopes_are_asked_of_a_token(begin: Begin, idp: KeySetServer) -> None:
    s = await begin(route={"scopes": ["read", "write"]})
    assert (await _get(s, token(idp, scope="write other read"))).status == 200
    assert (await _get(s, token(idp, scope=["read", "write"]))).status == 200
    for scopes in (None, "", "read", "readwrite", ["read"], 7):
        answer = await _get(s, token(idp, scope=scopes))
        assert (answer.status, answer.json()["code"]) == (403, "scope_missing")
        assert answer.headers["www-authenticate"] == (
            'Bearer realm="tollgate", error="insufficient_scope", scope="read write"'
        )


async def test_what_is_wrong_with_a_token_is_said(begin: Begin, idp: KeySetServer) -> None:
    now = int(time.time())
    s = await begin(issuer={"audiences": ["api"]})
    other = signing_key("ES256", "k1", number=1)
    cases = [
        (token(idp, aud="api", exp=now - 31), "token_expired", "The token has expired."),
        (token(idp, aud="api", nbf=now + 60), "bad_token", "The token is not valid yet."),
        (token(idp, aud="web"), "bad_token", "The token is for another audience."),
        (token(idp, other, aud="api"), "bad_token", "The signature of the token is not valid."),
        (
            token(idp, signing_key("ES256", "k9"), aud="api"),
            "bad_token",
            "The token is signed with a key that its issuer does not publish.",
        ),
        (token(idp, aud="api", sub=None), "bad_token", "The token does not say whose it is."),
        (
            token(idp, aud="api", iss="https://evil.test/"),
            "bad_token",
            "The token is not from an issuer that is known here.",
        ),
        ("a.b.c", "bad_token", "This is not a well-formed signed JWT."),
    ]
    client = await s.client()
    for text, code, detail in cases:
        answer = await ask(client, request("/api/x", text))
        assert (answer.status, answer.json()["code"], answer.json()["detail"]) == (401, code, detail)
        assert answer.headers["www-authenticate"] == (
            f'Bearer realm="tollgate", error="invalid_token", error_description="{detail}"'
        )
    assert s.upstream.received == []


async def test_a_route_for_tokens_takes_no_key(begin: Begin, catalogue: Catalogue) -> None:
    s = await begin()
    secret = await catalogue.key("sk")
    for lines in ([f"Authorization: Bearer {secret}"], [f"X-API-Key: {secret}"]):
        answer = await _get(s, None, *lines)
        assert (answer.status, answer.json()["code"]) == (401, "bad_token")


async def test_a_route_for_keys_takes_no_token(begin: Begin, idp: KeySetServer) -> None:
    s = await begin(auth="key")
    answer = await _get(s, token(idp))
    assert (answer.status, answer.json()["code"]) == (401, "bad_credential")


async def test_a_route_for_both_tells_them_apart(begin: Begin, idp: KeySetServer) -> None:
    s = await begin(auth="key-or-jwt")
    assert (await _get(s, s.key)).status == 200
    assert (await _get(s, None, f"X-API-Key: {s.key}")).status == 200
    assert (await _get(s, token(idp))).status == 200
    assert (await _get(s, s.key[:-1] + "!")).json()["code"] == "bad_credential"
    assert (await _get(s, token(idp)[:-1] + "!")).json()["code"] == "bad_token"


async def test_exactly_one_credential_is_taken(begin: Begin, idp: KeySetServer) -> None:
    s = await begin(auth="key-or-jwt")
    good = token(idp)
    for lines in (
        [f"Authorization: Bearer {good}", f"X-API-Key: {s.key}"],
        [f"Authorization: Bearer {good}", f"Authorization: Bearer {good}"],
        [f"Authorization: Bearer {s.key}", f"Authorization: Bearer {good}"],
    ):
        answer = await _get(s, None, *lines)
        assert (answer.status, answer.json()["code"]) == (401, "conflicting_credentials")
    answer = await _get(s, None)
    assert (answer.status, answer.json()["code"]) == (401, "no_credential")
    assert "JWT" in answer.json()["detail"]
    assert answer.headers["www-authenticate"] == 'Bearer realm="tollgate"'


async def test_a_token_may_come_where_the_route_says(begin: Begin, idp: KeySetServer) -> None:
    """Browsers cannot set a header on a WebSocket or an EventSource."""
    s = await begin(route={"key_query": "access_token"})
    answer = await _get(s, None, target=f"/api/x?a=1&access_token={token(idp)}&b=2")
    assert answer.status == 200
    assert b"GET /x?a=1&b=2 HTTP/1.1\r\n" in _upstream_heads(s)


async def test_an_issuer_that_cannot_be_asked_is_503_until_it_is_back(begin: Begin, idp: KeySetServer) -> None:
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=500)

    s = await begin()
    idp.answer = away
    answer = await _get(s, token(idp))
    assert (answer.status, answer.json()["code"]) == (503, "auth_unavailable")
    assert "retry-after" in answer.headers
    assert "www-authenticate" not in answer.headers
    idp.answer = None
    good = token(idp)

    async def is_served() -> bool:
        return (await _get(s, good)).status == 200

    await until(is_served)


async def test_who_hangs_up_while_keys_are_fetched_harms_nobody(begin: Begin, idp: KeySetServer) -> None:
    come = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await come.wait()
        return web.json_response({"keys": [KEY.jwk()]})

    s = await begin()
    idp.answer = slow
    text = token(idp)
    impatient, patient = await s.client(), await s.client()
    await impatient.send(request("/api/x", text))
    await until(lambda: idp.asked == 1)
    await patient.send(request("/api/x", text))
    await until(lambda: sum(c.is_busy for c in s.inside.door.connections) == 2)
    await impatient.close()
    await until(lambda: sum(c.is_busy for c in s.inside.door.connections) == 1)
    come.set()
    assert (await patient.read_until(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert idp.asked == 1


async def test_a_flood_of_made_up_keys_makes_one_fetch(begin: Begin, idp: KeySetServer) -> None:
    s = await begin()
    client = await s.client()
    for n in range(100):
        answer = await ask(client, request("/api/x", token(idp, signing_key("ES256", f"made-up-{n}"))))
        assert answer.status == 401
    assert idp.asked == 1


async def test_what_a_connection_remembers_does_not_outlive_the_token(begin: Begin, idp: KeySetServer) -> None:
    s = await begin(issuer={"leeway_s": 0})
    client = await s.client()
    expires = time.time() + 1.5
    data = request("/api/x", token(idp, exp=expires))
    assert (await ask(client, data)).status == 200
    assert (await ask(client, data)).status == 200
    assert s.inside.gateway.tokens.verifications == 1
    [connection] = s.inside.door.connections
    assert connection.caller is not None
    assert connection.caller.good_until_ms == pytest.approx(expires * 1000)
    await asyncio.sleep(max(0.0, expires + 0.01 - time.time()))
    answer = await ask(client, data)
    assert (answer.status, answer.json()["code"]) == (401, "token_expired")


async def test_a_warm_token_is_neither_verified_nor_looked_up_again(begin: Begin, idp: KeySetServer) -> None:
    s = await begin(issuer={"claims": {"tier": "plan"}})
    data = request("/api/x", token(idp, plan="pro"))
    for _ in range(5):
        client = await s.client()
        for _ in range(3):
            assert (await ask(client, data)).status == 200
    assert s.inside.gateway.tokens.verifications == 1


async def test_a_removed_issuer_is_heard_of_in_less_than_a_second(
    begin: Begin, idp: KeySetServer, pg: asyncpg.Connection
) -> None:
    s = await begin()
    data = request("/api/x", token(idp))
    client = await s.client()
    assert (await ask(client, data)).status == 200
    await pg.execute("DELETE FROM issuers")
    began = time.monotonic()

    async def is_refused() -> bool:
        return (await ask(client, data)).status == 401

    await until(is_refused)
    took = time.monotonic() - began
    print(f"issuer removed: refused after {took * 1000:.0f} ms")
    assert took < 1.0


async def test_a_withdrawn_key_ends_connections_that_used_it(begin: Begin, idp: KeySetServer) -> None:
    s = await begin()
    data = request("/api/x", token(idp))
    client = await s.client()
    assert (await ask(client, data)).status == 200
    idp.keys = [signing_key("ES256", "k2", number=1)]
    [known] = s.inside.gateway.tokens._issuers.values()
    await known.keys.refreshed()
    assert (await ask(client, data)).status == 401


async def test_an_issuer_that_this_release_cannot_read_is_left_out(
    begin: Begin, idp: KeySetServer, pg: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    s = await begin()
    await pg.execute(
        "INSERT INTO issuers (id, project_id, name, issuer, spec) VALUES ('iss_x', $1, 'future', 'f', $2)",
        PROJECT, '{"name": "future", "kind": "saml"}',
    )  # fmt: skip
    await s.inside.caught_up(pg)
    assert (await _get(s, token(idp))).status == 200
    assert "issuer future is left out" in caplog.text


async def test_no_token_and_no_claim_is_ever_logged(
    begin: Begin, idp: KeySetServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    s = await begin(issuer={"claims": {"tier": "plan"}})
    texts = [
        token(idp, sub="SECRET-user", plan="pro"),
        token(idp, sub="SECRET-user", plan="SECRET-plan"),
        token(idp, sub="SECRET user"),
        token(idp, sub="SECRET-user", exp=1),
        token(idp, signing_key("ES256", "SECRET-kid"), sub="SECRET-user"),
        "SECRET.SECRET.SECRET",
    ]
    for text in texts:
        await _get(s, text)
    await idp.stop()
    [known] = s.inside.gateway.tokens._issuers.values()
    await known.keys.refreshed()
    assert "is down" in caplog.text
    assert "SECRET" not in caplog.text
    assert not any(text[:40] in caplog.text for text in texts)


# -- the gateway's own endpoints


async def test_usage_is_read_and_counted_with_a_token(begin: Begin, idp: KeySetServer, books: Books) -> None:
    s = await begin()
    text = token(idp, sub="bob")
    client = await s.client()
    body = b'{"quantity": 3}'
    counted = await ask(client, request("/api/data", text, method="POST", body=body))
    assert counted.status == 200
    assert counted.json()["userId"] == "bob"
    read = await ask(client, request("/api/usage", text))
    assert read.json()["userId"] == "bob"
    assert (read.json()["usage"]["count"], read.json()["usage"]["limit"]) == (3, 50)
    refused = await ask(client, request("/api/data", text, method="POST", body=b'{"quantity": 48}'))
    assert (refused.status, refused.json()["error"]) == (403, "Tier limit reached")
    assert (await ask(client, request("/api/usage", token(idp, sub="bob", exp=1)))).status == 401
    [event] = await books.events()
    assert (event["project"], event["external"]) == (PROJECT, "bob")


async def test_an_idempotent_count_belongs_to_the_end_user(begin: Begin, idp: KeySetServer) -> None:
    s = await begin()
    client = await s.client()
    body = b'{"idempotencyKey": "once"}'
    counts = []
    for user in ("bob", "bob", "eve"):
        answer = await ask(client, request("/api/data", token(idp, sub=user), method="POST", body=body))
        counts.append((answer.status, answer.json()["usage"]["count"]))
    assert counts == [(200, 1), (200, 1), (200, 1)]


async def test_an_issuer_of_two_projects_says_nothing_about_which(
    begin: Begin, idp: KeySetServer, pg: asyncpg.Connection, catalogue: Catalogue
) -> None:
    s = await begin()
    assert (await _get(s, token(idp), target="/api/usage")).status == 200
    await declare(pg, await catalogue.project("prj_other"), idp.spec())
    await s.inside.caught_up(pg)
    assert (await _get(s, token(idp), target="/api/usage")).status == 401
    assert (await _get(s, token(idp))).status == 200, "a route has a project"
