"""Tiers, customers, upstreams and routes over HTTP: list, get, create, update, delete."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admin.api.conftest import World
from tests.admin.declared import audit, revision

NEW: dict[str, dict[str, Any]] = {
    "tiers": {"name": "gold", "price_minor": 100, "quotas": {"requests": 5, "tokens": None}},
    "customers": {"external_id": "eve", "email": "Eve@example.com", "tier": "pro"},
    "issuers": {"name": "partner", "issuer": "https://partner.example", "jwks_url": "https://partner.example/keys"},
    "upstreams": {"name": "other", "targets": ["https://api.example.com/base"]},
    "routes": {"name": "new", "path": "/new/*", "upstream": "api", "methods": ["POST", "GET"]},
}
EXPECTED: dict[str, dict[str, Any]] = {
    "tiers": {
        "name": "gold",
        "title": "gold",
        "price_minor": 100,
        "currency": "usd",
        "quotas": {
            "requests": {"limit": 5, "hard": True, "overage_price": None},
            "tokens": {"limit": None, "hard": True, "overage_price": None},
        },
        "default": False,
    },
    "customers": {"external_id": "eve", "email": "eve@example.com", "tier": "pro", "origin": "declared"},
    "issuers": {"name": "partner", "issuer": "https://partner.example", "audiences": [], "leeway_s": 30},
    "upstreams": {"name": "other", "targets": [{"url": "https://api.example.com/base", "weight": 1}]},
    "routes": {"name": "new", "path": "/new/*", "upstream": "api", "methods": ["GET", "POST"], "auth": "key"},
}
CHANGE: dict[str, dict[str, Any]] = {
    "tiers": {"price_minor": 200},
    "customers": {"name": "Eve"},
    "issuers": {"leeway_s": 5},
    "upstreams": {"connect_timeout_ms": 7},
    "routes": {"path": "/newer/*"},
}
INVALID: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "tiers": (
        {"name": "Gold", "quotas": {"requests": -1}, "colour": "red"},
        {
            "name": "expected a name of lower-case letters, digits, '.', '_' or '-' (at most 63), got 'Gold'",
            "quotas.requests": "expected a value greater than or equal to 0, got -1",
            "colour": "unknown field (known: name, title, price_minor, currency, billing_interval, requests_per_minute,"
            " burst, shadow, concurrent_requests, quotas, spend_cap_minor, trial_days, features, default, popular,"
            " upgrade_url, modes)",
        },
    ),
    "customers": (
        {"external_id": "a b", "emial": "x"},
        {
            "external_id": "expected 1 to 200 printable ASCII characters without spaces, got 'a b'",
            "emial": "unknown field; did you mean 'email'?",
        },
    ),
    "issuers": (
        {"name": "x", "issuer": "x", "jwks_url": "http://id.example/keys"},
        {
            "jwks_url": "expected https://…: whoever can change this answer can sign tokens (http only to loopback)",
        },
    ),
    "upstreams": (
        {"name": "x", "targets": ["http://a:b@c"]},
        {"targets[0]": "expected http(s)://host[:port][/base-path]; credentials do not belong in a URL"},
    ),
    "routes": ({"name": "x", "path": "/x"}, {"upstream": "is missing"}),
}
NOUNS = list(NEW)


@pytest.mark.parametrize("plural", NOUNS)
async def test_the_life_of_an_object(world: World, plural: str) -> None:
    made = await world.test.post(f"/api/v1/{plural}", NEW[plural])
    assert made.status == 201, made.text
    assert made.json.items() >= EXPECTED[plural].items()
    where = made.headers["Location"]
    assert where == f"/api/v1/{plural}/{made.json['id']}"

    assert (await world.test.get(where)).json == made.json
    assert made.json in (await world.test.get(f"/api/v1/{plural}?limit=100")).json["data"]

    changed = await world.test.patch(where, CHANGE[plural])
    assert changed.status == 200
    assert changed.json == {**made.json, **CHANGE[plural]}

    gone = await world.test.delete(where)
    assert (gone.status, gone.text) == (204, "")
    assert (await world.test.get(where)).code == "not_found"
    assert (await world.test.delete(where)).status == 404

    actions = [row["action"] for row in await audit(world.pg)][-3:]
    assert actions == ["created", "updated", "deleted"]


@pytest.mark.parametrize("plural", NOUNS)
async def test_invalid_fields_are_told_at_once(world: World, plural: str) -> None:
    body, errors = INVALID[plural]
    answer = await world.test.post(f"/api/v1/{plural}", body)
    assert (answer.status, answer.code) == (422, "invalid")
    assert answer.errors == errors


@pytest.mark.parametrize("plural", NOUNS)
async def test_a_name_is_taken_once(world: World, plural: str) -> None:
    assert (await world.test.post(f"/api/v1/{plural}", NEW[plural])).status == 201
    again = await world.test.post(f"/api/v1/{plural}", NEW[plural])
    assert (again.status, again.code) == (409, "conflict")


@pytest.mark.parametrize("plural", NOUNS)
async def test_a_name_is_not_changed(world: World, plural: str) -> None:
    made = (await world.test.post(f"/api/v1/{plural}", NEW[plural])).json
    name = "external_id" if plural == "customers" else "name"
    answer = await world.test.patch(f"/api/v1/{plural}/{made['id']}", {name: "renamed"})
    assert (answer.status, list(answer.errors)) == (422, [name])
    assert (await world.test.patch(f"/api/v1/{plural}/{made['id']}", {name: made[name]})).status == 200


@pytest.mark.parametrize("plural", NOUNS)
async def test_a_patch_that_changes_nothing_writes_nothing(world: World, plural: str) -> None:
    made = (await world.test.post(f"/api/v1/{plural}", NEW[plural])).json
    before = await revision(world.pg), len(await audit(world.pg))
    for body in ({}, NEW[plural]):
        assert (await world.test.patch(f"/api/v1/{plural}/{made['id']}", body)).json == made
    assert (await revision(world.pg), len(await audit(world.pg))) == before


@pytest.mark.parametrize("plural", ["tiers", "customers"])
async def test_a_key_serves_its_own_mode(world: World, plural: str) -> None:
    answer = await world.test.post(f"/api/v1/{plural}", {**NEW[plural], "modes": ["live"]})
    assert answer.errors == {"modes": "is not a field here: this is a test key, and serves that mode alone"}
    made = await world.live.post(f"/api/v1/{plural}", NEW[plural])
    assert made.status == 201
    assert (await world.test.get(made.headers["Location"])).status == 404


async def test_a_route_needs_an_upstream_that_is_there(world: World) -> None:
    answer = await world.test.post("/api/v1/routes", {**NEW["routes"], "upstream": "gone"})
    assert (answer.status, answer.errors) == (422, {"upstream": "no upstream is called 'gone'"})


async def test_a_customer_needs_a_tier_that_is_there(world: World) -> None:
    answer = await world.test.post("/api/v1/customers", {"external_id": "eve", "tier": "gone"})
    assert (answer.status, answer.errors) == (422, {"tier": "no test tier is called 'gone'"})
    assert await world.pg.fetchval("SELECT count(*) FROM customers WHERE external_id = 'eve'") == 0


async def test_what_is_in_use_is_not_deleted(world: World) -> None:
    upstream = (await world.test.get("/api/v1/upstreams")).json["data"][0]
    answer = await world.test.delete(f"/api/v1/upstreams/{upstream['id']}")
    assert (answer.status, answer.json["detail"]) == (409, "upstream 'api' is used by: all, read")
    tier = next(t for t in (await world.test.get("/api/v1/tiers")).json["data"] if t["name"] == "pro")
    answer = await world.test.delete(f"/api/v1/tiers/{tier['id']}")
    assert answer.status == 409
    assert "1 current and 0 past subscriptions" in answer.json["detail"]


async def test_a_route_of_another_project_is_not_taken_nor_named(world: World) -> None:
    answer = await world.test.post("/api/v1/routes", {"name": "x", "path": "/rival/*", "upstream": "api"})
    assert answer.status == 409
    assert answer.errors == {"path": "any method any host/rival/* is served by a route of another project already"}
    assert "Rival" not in answer.text


async def test_a_customers_tier(world: World) -> None:
    ada = next(c for c in (await world.test.get("/api/v1/customers")).json["data"] if c["external_id"] == "ada")
    assert ada["subscription"]["status"] == "trialing"
    where = f"/api/v1/customers/{ada['id']}"
    moved = (await world.test.patch(where, {"tier": "free"})).json
    assert (moved["tier"], moved["subscription"]["anchor_at"]) == ("free", ada["subscription"]["anchor_at"])
    ended = (await world.test.patch(where, {"tier": None})).json
    assert (ended["tier"], ended["subscription"]) == (None, None)
    assert (await world.test.patch(where, {"name": "Ada L."})).json["tier"] is None


async def test_deleting_a_customer_takes_its_keys(world: World) -> None:
    ada = next(c for c in (await world.test.get("/api/v1/customers")).json["data"] if c["external_id"] == "ada")
    before = await revision(world.pg)
    assert (await world.test.delete(f"/api/v1/customers/{ada['id']}")).status == 204
    assert await world.pg.fetchval("SELECT count(*) FROM keys WHERE kind = 'ck'") == 0
    nouns = {row["noun"] for row in await world.pg.fetch("SELECT noun FROM changes WHERE revision > $1", before)}
    assert nouns == {"customer", "key"}


async def test_a_new_default_tier_takes_over(world: World) -> None:
    await world.test.post("/api/v1/tiers", {"name": "basic", "default": True})
    tiers = (await world.test.get("/api/v1/tiers")).json["data"]
    assert {tier["name"]: tier["default"] for tier in tiers} == {"basic": True, "pro": False, "free": False}


async def test_ids_that_are_none(world: World) -> None:
    for object_id in ("tier_0", "nope", "%00", "tier_%2e%2e", "TIER_1", "tier_" + "0" * 500):
        assert (await world.test.get(f"/api/v1/tiers/{object_id}")).code == "not_found"


async def test_text_that_cannot_be_stored_is_refused(world: World) -> None:
    for title in ("a\u0000b", "line\nbreak", "x" * 201, ""):
        answer = await world.test.post("/api/v1/tiers", {"name": "gold", "title": title, "features": {title: title}})
        assert answer.status == 422
        assert "title" in answer.errors


async def test_text_is_kept_as_it_is(world: World) -> None:
    for index, title in enumerate(("日本 🎈", "'; DROP TABLE tiers; --", "<script>", "\u202eevil", "%s {0} $1 \\")):
        body = {"name": f"t{index}", "title": title, "features": {title: title}}
        made = await world.test.post("/api/v1/tiers", body)
        assert (made.json["title"], made.json["features"]) == (title, {title: title})


async def test_numbers_that_are_too_large_are_refused(world: World) -> None:
    for field in (
        '"price_minor": 1e400',
        '"price_minor": 9223372036854775808',
        '"features": {"a": 18446744073709551616}',
    ):
        answer = await world.test.post("/api/v1/tiers", f'{{"name": "gold", {field}}}', Content_Type="application/json")
        assert answer.status in (400, 422), answer.text
