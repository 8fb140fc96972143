"""Who may call what: credentials, kinds, scopes, origins, addresses."""

from __future__ import annotations

import pytest

from admin.keys import get_key, list_keys, revoke_key
from admin.nouns import Scope
from ledger.keys import KeyKind, Mode, generate
from ledger.restrictions import is_origin_allowed
from tests.admin.api.conftest import World

TIERS = "/api/v1/tiers"


NO_KEYS: list[tuple[dict[str, str], str]] = [
    ({}, "no_credential"),
    ({"Authorization": "Basic dXNlcjpwdw=="}, "no_credential"),
    ({"Authorization": "Bearer"}, "bad_credential"),
    ({"Authorization": "Bearer nonsense"}, "bad_credential"),
    ({"Authorization": "Bearer sk_test_" + "a" * 38}, "bad_credential"),
    ({"X-API-Key": "sk_test_" + "é" * 38}, "bad_credential"),
]


async def test_what_is_not_a_key_is_401_with_a_challenge(world: World) -> None:
    for headers, code in NO_KEYS:
        answer = await world.client(None).get(TIERS, **headers)
        assert (answer.status, answer.code) == (401, code), headers
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="tollgate"'


async def test_a_well_formed_key_that_nobody_made(world: World) -> None:
    answer = await world.client(generate(KeyKind.SECRET, Mode.TEST).text).get(TIERS)
    assert (answer.status, answer.code) == (401, "bad_credential")


async def test_two_keys_are_one_too_many_even_if_equal(world: World) -> None:
    for other in (world.test.key, world.rival.key):
        answer = await world.test.get(TIERS, X_API_Key=str(other))
        assert (answer.status, answer.code) == (401, "conflicting_credentials")


async def test_either_header_carries_a_key(world: World) -> None:
    assert (await world.client(None).get(TIERS, X_API_Key=str(world.test.key))).status == 200
    assert (await world.client(None).get(TIERS, Authorization=f"bearer {world.test.key}")).status == 200


async def test_a_revoked_key(world: World) -> None:
    (newest, *_) = await list_keys(world.pg, Scope(world.shop_id, Mode.LIVE), None, 1)
    assert (await world.live.get(TIERS)).status == 200
    await revoke_key(world.pg, newest, actor="cli")
    answer = await world.live.get(TIERS)
    assert (answer.status, answer.code) == (401, "key_revoked")


async def test_an_expired_key(world: World) -> None:
    await world.pg.execute("UPDATE keys SET expires_at = now() WHERE mode = 'live'")
    answer = await world.live.get(TIERS)
    assert (answer.status, answer.code) == (401, "key_expired")


async def test_only_secret_keys_administer(world: World) -> None:
    for client in (world.publishable, world.customer):
        for method, path in (("GET", TIERS), ("POST", TIERS), ("GET", "/api/v1/keys"), ("POST", "/api/v1/apply")):
            answer = await client(method, path, {})
            assert (answer.status, answer.code) == (403, "forbidden")


async def test_a_key_with_scopes_needs_the_right_one(world: World) -> None:
    answer = await world.client(await world.key(world.shop_id, scopes=["run"])).get(TIERS)
    assert (answer.status, answer.code) == (403, "scope_missing")
    assert (await world.client(await world.key(world.shop_id, scopes=["run", "admin"])).get(TIERS)).status == 200


async def test_a_key_for_other_addresses(world: World) -> None:
    answer = await world.client(await world.key(world.shop_id, allowed_ips=["192.0.2.0/24", "::1/128"])).get(TIERS)
    assert (answer.status, answer.code) == (403, "ip_not_allowed")
    assert (await world.client(await world.key(world.shop_id, allowed_ips=["127.0.0.0/8"])).get(TIERS)).status == 200


async def test_a_key_for_other_origins(world: World) -> None:
    client = world.client(await world.key(world.shop_id, allowed_origins=["*.example.com"]))
    for headers in ({}, {"Origin": "https://evil.test"}):
        answer = await client.get(TIERS, **headers)
        assert (answer.status, answer.code) == (403, "origin_not_allowed")
    assert (await client.get(TIERS, Origin="https://app.example.com")).status == 200


@pytest.mark.parametrize(
    ("origin", "allowed", "is_allowed"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com", "app.example.com", True),
        ("https://APP.example.com", "App.Example.com", True),
        ("https://app.example.com", "*.example.com", True),
        ("https://a.b.example.com", "*.example.com", True),
        ("https://app.example.com", "https://*.example.com", True),
        ("http://app.example.com", "https://*.example.com", False),
        ("https://example.com", "*.example.com", False),
        ("https://notexample.com", "*.example.com", False),
        ("https://example.com.evil.test", "example.com", False),
        ("https://example.com:8443", "example.com", False),
        ("https://example.com:8443", "example.com:8443", True),
        ("https://anything.test", "*", True),
        ("null", "*", True),
        (None, "*", False),
    ],
)
def test_origins(origin: str | None, allowed: str, is_allowed: bool) -> None:
    assert is_origin_allowed(origin, (allowed,)) is is_allowed


async def test_keys_never_appear_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await world.test.get(TIERS, X_API_Key=str(world.rival.key))
    made = (await world.test.post("/api/keys", {"name": "x"})).json
    assert (await get_key(world.pg, made["id"])) is not None
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "request" in text
    for secret in (world.test.key, world.rival.key, made["key"]):
        assert str(secret) not in text
