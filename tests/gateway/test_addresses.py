"""Limits by client address: on routes for everybody, and for keys that nobody knows."""

from __future__ import annotations

from ipaddress import ip_network

import asyncpg
import pytest
import redis.asyncio
from pydantic import SecretStr

from admin.app import running
from config.settings import AdminSettings, Settings
from ledger.keys import KeyKind, Mode, generate
from tests.gateway.conftest import MakeStage
from tests.gateway.wire import Answer, answering, ask, ok, request
from tests.support.gateway import Books, Catalogue

FROM = "X-Forwarded-For: %s"


async def test_each_address_has_its_own_minute_on_a_route_for_everybody(
    stage: MakeStage, books: Books, redis_client: redis.asyncio.Redis
) -> None:
    s = await stage(
        answering(ok()),
        route={"auth": "none", "requests_per_minute_per_ip": 2},
        trusted_proxies=("127.0.0.1",),
    )

    async def of(address: str) -> Answer:
        async with await s.client() as client:
            return await ask(client, request("/api/x", None, FROM % address))

    first = await of("203.0.113.9")
    assert (first.status, first.headers["ratelimit-policy"]) == (200, '"ip-minute";q=2;w=60')
    assert first.headers["ratelimit"].startswith('"ip-minute";r=1')
    assert [(await of("203.0.113.9")).status for _ in range(2)] == [200, 429]
    assert (await of("203.0.113.9")).json()["violated-policies"] == ["ip-minute"]
    assert (await of("203.0.113.10")).status == 200
    assert [(await of(f"2001:db8::{n}")).status for n in (1, 2, 3)] == [200, 200, 429]  # one /64
    await s.inside.settled()
    assert len(await books.events()) == 5
    assert len(await redis_client.keys("tg:*:win:*")) == 3


async def test_a_flood_of_unknown_keys_is_not_a_flood_of_look_ups(stage: MakeStage, pg: asyncpg.Connection) -> None:
    s = await stage(answering(ok()), unknown_keys_per_minute=3)
    looked_up = []
    principal = s.inside.gateway.snapshot.principal

    async def counted(key_hash: bytes) -> object:
        looked_up.append(key_hash)
        return await principal(key_hash)

    s.inside.gateway.snapshot.principal = counted  # type: ignore[method-assign]
    client = await s.client()
    assert (await ask(client, request("/api/x", s.key))).status == 200
    looked_up.clear()
    unknown = [generate(KeyKind.SECRET, Mode.LIVE).text for _ in range(6)]
    answers = [await ask(client, request("/api/x", key)) for key in unknown]
    assert [a.status for a in answers] == [401, 401, 401, 429, 429, 429]
    assert answers[-1].json()["code"] == "too_many_unknown_keys"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 61
    assert len(looked_up) == 3
    assert (await ask(client, request("/api/x", unknown[0]))).status == 401  # known not to exist: no look-up
    assert (await ask(client, request("/api/x", s.key))).status == 200  # keys in memory are served all the while
    assert (await ask(client, request("/api/x", "sk_live_mistyped"))).status == 401


# -- clients who write addresses that are not theirs


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "X-Client-IP"])
async def test_a_claim_of_ones_own_evades_no_limit(stage: MakeStage, field: str) -> None:
    s = await stage(answering(ok()), route={"auth": "none", "requests_per_minute_per_ip": 2})
    client = await s.client()
    value = "for={0}" if field == "Forwarded" else "{0}"
    lines = [f"{field}: {value.format(f'203.0.113.{n}')}" for n in range(4)]
    assert [(await ask(client, request("/api/x", None, line))).status for line in lines] == [200, 200, 429, 429]


async def test_nor_does_one_that_a_proxy_passes_on(stage: MakeStage) -> None:
    """The proxy adds whom it saw to the right; what the client wrote stands left of it."""
    s = await stage(
        answering(ok()),
        route={"auth": "none", "requests_per_minute_per_ip": 2},
        trusted_proxies=("127.0.0.1", "10.0.0.0/8"),
    )
    client = await s.client()
    lines = [f"X-Forwarded-For: 203.0.113.{n}, 198.51.100.7, 10.0.0.{n + 1}" for n in range(4)]
    assert [(await ask(client, request("/api/x", None, line))).status for line in lines] == [200, 200, 429, 429]


@pytest.mark.parametrize(
    ("listed", "claim", "status"),
    [
        ({"deny_ips": ["198.51.100.0/24"]}, "203.0.113.1, 198.51.100.7", 403),
        ({"deny_ips": ["198.51.100.0/24"]}, "198.51.100.7, 203.0.113.1", 200),
        ({"allow_ips": ["203.0.113.0/24"]}, "203.0.113.1, 198.51.100.7", 403),
        ({"allow_ips": ["203.0.113.0/24"]}, "198.51.100.7, 203.0.113.1", 200),
        ({"allow_ips": ["127.0.0.0/8"]}, "127.0.0.1, 198.51.100.7", 403),
    ],
)
async def test_lists_of_a_route_are_about_the_last_who_is_no_proxy(
    stage: MakeStage, listed: dict[str, list[str]], claim: str, status: int
) -> None:
    s = await stage(answering(ok()), route=listed, trusted_proxies=("127.0.0.1",))
    answer = await ask(await s.client(), request("/api/x", s.key, FROM % claim))
    assert answer.status == status


async def test_so_is_the_list_of_a_key(stage: MakeStage, catalogue: Catalogue) -> None:
    s = await stage(answering(ok()), trusted_proxies=("127.0.0.1",))
    key = await catalogue.key("sk", allowed_ips=[ip_network("203.0.113.0/24")])
    client = await s.client()
    for claim, status in (("198.51.100.7, 203.0.113.1", 200), ("203.0.113.1, 198.51.100.7", 403), ("203.0.113.1", 200)):
        assert (await ask(client, request("/api/x", key, FROM % claim))).status == status


async def test_and_a_flood_of_unknown_keys(stage: MakeStage) -> None:
    s = await stage(answering(ok()), unknown_keys_per_minute=3, trusted_proxies=("127.0.0.1",))
    client, statuses = await s.client(), []
    for n in range(5):
        key = generate(KeyKind.SECRET, Mode.LIVE).text
        statuses.append((await ask(client, request("/api/x", key, FROM % f"203.0.113.{n}, 198.51.100.7"))).status)
    assert statuses == [401, 401, 401, 429, 429]


async def test_what_was_found_of_one_sender_is_not_for_another(stage: MakeStage) -> None:
    """The same fields and key but for the claim, on one connection: each is looked at by itself."""
    s = await stage(answering(ok()), route={"deny_ips": ["198.51.100.0/24"]}, trusted_proxies=("127.0.0.1",))
    client = await s.client()
    for _ in range(2):
        for claim, status in (("203.0.113.1", 200), ("198.51.100.7", 403)):
            assert (await ask(client, request("/api/x", s.key, FROM % claim))).status == status


async def test_links_by_mail_are_limited_by_who_asks_for_them_behind_the_gateway(
    stage: MakeStage, postgres_url: str
) -> None:
    admin = AdminSettings(port=0, metrics_port=0, trusted_proxies=(ip_network("127.0.0.1"),))
    async with running(Settings(postgres_url=SecretStr(postgres_url), admin=admin)) as control:
        s = await stage(answering(ok()), admin_url=control.url, trusted_proxies=())
        client, statuses = await s.client(), []
        for n in range(7):  # another forged address and another mailbox each time
            body = b'{"email":"eve%d@example.com"}' % n
            lines = ("Content-Type: application/json", FROM % f"203.0.113.{n}")
            sent = request("/auth/magic-link", None, *lines, method="POST", body=body)
            statuses.append((await ask(client, sent)).status)
    assert statuses[:5] == [statuses[0]] * 5
    assert statuses[0] < 400
    assert statuses[5:] == [429, 429]
