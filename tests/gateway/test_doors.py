"""Who may come in at all: pages of other origins, addresses, and proxies that speak for others."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from tests.gateway.conftest import MakeStage
from tests.gateway.test_pipeline import fields_of
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import Books, Catalogue

HELLO = answering(ok(b"hello", b"Access-Control-Allow-Origin: *", b"Vary: Accept"))
APP = "Origin: https://app.example.com"
ASK = (APP, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
CORS: dict[str, Any] = {"allowed_origins": ["*.example.com"]}
PROXY = (ip_network("127.0.0.0/8"),)


async def test_a_preflight_is_answered_here_and_counted_nowhere(stage: MakeStage, books: Books) -> None:
    s = await stage(HELLO, route={"cors": CORS, "methods": ["POST"]}, tier={"per_minute": 1, "quotas": {"requests": 1}})
    client = await s.client()
    for _ in range(3):
        answer = await ask(client, request("/api/x", None, *ASK, method="OPTIONS"))
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert answer.headers["access-control-allow-methods"] == "POST"
        assert "ratelimit" not in answer.headers
    assert s.upstream.received == []
    assert (await books.events(), await books.quotas()) == ([], {})
    assert s.inside.gateway.metrics.counts["preflights_total"] == 3
    assert (await ask(client, request("/api/x", s.key, APP, method="POST"))).status == 200


async def test_an_answer_says_who_may_read_it(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"cors": CORS})
    client = await s.client()
    answer = await ask(client, request("/api/x", s.key, APP))
    lines = answer.head.decode().split("\r\n")
    assert [line for line in lines if line.startswith(("Access-Control-Allow", "Vary"))] == [
        "Vary: Accept",
        "Access-Control-Allow-Origin: https://app.example.com",
        "Vary: Origin",
    ]
    assert "RateLimit-Policy" in answer.headers["access-control-expose-headers"]
    for other in ("Origin: https://evil.test", "A: b"):
        answer = await ask(client, request("/api/x", s.key, other))
        assert (answer.status, answer.body) == (200, b"hello")
        assert "access-control-allow-origin" not in answer.headers
        assert b"\r\nVary: Origin\r\n" in answer.head


async def test_refusals_can_be_read_by_the_page_too(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"cors": CORS, "max_body_bytes": 3}, tier={"per_minute": 1})
    client = await s.client()
    answers = [await ask(client, request("/api/x", None, APP)) for _ in range(2)]  # the second is remembered
    answers += [await ask(client, request("/api/x", s.key, APP)) for _ in range(3)][
        1:
    ]  # denied by Redis, then at sight
    answers.append(await ask(client, request("/api/x", s.key, APP, method="POST", body=b"four")))
    assert [answer.status for answer in answers] == [401, 401, 429, 429, 413]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert answer.headers["vary"] == "Origin"
    other = await ask(await s.client(), request("/api/x", s.key, "Origin: https://evil.test"))
    assert (other.status, "access-control-allow-origin" in other.headers) == (429, False)


async def test_an_upstream_that_is_away_can_be_read_by_the_page(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(HELLO, route={"cors": CORS, "origins": ["http://127.0.0.1:1"]})
    answer = await ask(await s.client(), request("/api/x", s.key, APP))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (502, "https://app.example.com")


@pytest.mark.parametrize(
    ("route", "lines"),
    [
        ({}, ASK),  # no cors declared: the upstream's business
        ({"cors": CORS}, [APP]),  # no preflight, an OPTIONS like any other
        ({"cors": CORS}, ["Access-Control-Request-Method: POST"]),
    ],
)
async def test_other_options_requests_are_forwarded(stage: MakeStage, route: dict[str, Any], lines: list[str]) -> None:
    s = await stage(HELLO, route=route)
    client = await s.client()
    assert (await ask(client, request("/api/x", None, *lines, method="OPTIONS"))).status == 401
    assert (await ask(client, request("/api/x", s.key, *lines, method="OPTIONS"))).body == b"hello"
    assert s.upstream.received[0].startswith(b"OPTIONS /x ")


async def test_a_preflight_for_a_method_that_is_not_served(stage: MakeStage) -> None:
    s = await stage(HELLO, route={"cors": CORS, "methods": ["GET"]})
    answer = await ask(await s.client(), request("/api/x", None, *ASK, method="OPTIONS"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


# -- addresses


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        ({"allow_ips": ["127.0.0.0/8"]}, 200),
        ({"allow_ips": ["10.0.0.0/8", "127.0.0.1"]}, 200),
        ({"allow_ips": ["10.0.0.0/8"]}, 403),
        ({"deny_ips": ["127.0.0.1"]}, 403),
        ({"deny_ips": ["10.0.0.0/8"]}, 200),
        ({"allow_ips": ["127.0.0.0/8"], "deny_ips": ["127.0.0.1"]}, 403),
        ({"allow_ips": ["::/0"]}, 403),
    ],
)
async def test_addresses_are_let_in_or_not(stage: MakeStage, rules: dict[str, Any], status: int) -> None:
    s = await stage(HELLO, route={**rules, "cors": CORS})
    client = await s.client()
    for _ in range(2):
        answer = await ask(client, request("/api/x", s.key))
        assert answer.status == status
        assert status == 200 or answer.json()["code"] == "address_refused"
    assert (await ask(client, request("/api/x", None, *ASK, method="OPTIONS"))).status == status
    assert (len(s.upstream.received) > 0) == (status == 200)


async def test_a_trusted_proxys_word_decides_about_addresses(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(HELLO, route={"deny_ips": ["6.6.6.0/24"]}, trusted_proxies=PROXY)
    bound = await catalogue.key("sk", allowed_ips=["1.2.3.4/32"])
    client = await s.client()
    statuses = [
        (await ask(client, request("/api/x", key, f"X-Forwarded-For: {chain}"))).status
        for key, chain in [
            (s.key, "1.2.3.4"), (s.key, "6.6.6.6"), (s.key, "6.6.6.6, 1.2.3.4"), (s.key, "1.2.3.4, 6.6.6.6"),
            (bound, "1.2.3.4"), (bound, "1.2.3.4, 5.5.5.5"), (bound, "1.2.3.4, 127.0.0.7"),
        ]
    ]  # fmt: skip
    assert statuses == [200, 403, 200, 403, 200, 403, 200]


async def test_without_trust_nobody_can_speak_for_another(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(HELLO, trusted_proxies=(ip_network("10.0.0.0/8"),))
    bound = await catalogue.key("sk", allowed_ips=["1.2.3.4/32"])
    client = await s.client()
    answer = await ask(client, request("/api/x", bound, "X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4"))
    assert (answer.status, answer.json()["code"]) == (403, "ip_not_allowed")


@pytest.mark.parametrize(
    ("settings", "lines", "told"),
    [
        ({}, ["X-Forwarded-For: 6.6.6.6, 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.test"],
         ("1.2.3.4, 127.0.0.1", "https", "shop.test")),
        ({"forwarded_by": "forwarded"}, ["Forwarded: for=6.6.6.6, for=1.2.3.4;proto=https;host=shop.test"],
         ("1.2.3.4, 127.0.0.1", "https", "shop.test")),
        ({}, ["A: b"], ("127.0.0.1", "http", "gateway.test")),
    ],
)  # fmt: skip
async def test_what_an_upstream_is_told_about_the_client(
    stage: MakeStage, settings: dict[str, Any], lines: list[str], told: tuple[str, str, str]
) -> None:
    s = await stage(HELLO, trusted_proxies=PROXY, **settings)
    await ask(await s.client(), request("/api/x", s.key, *lines))
    fields = fields_of(s.upstream.received[0])
    assert tuple(fields[f"X-Forwarded-{name}"] for name in ("For", "Proto", "Host")) == told
    assert "Forwarded" not in fields
    assert b"6.6.6.6" not in s.upstream.received[0]
