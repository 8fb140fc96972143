"""Keys over HTTP, under both names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.keys import is_well_formed
from tests.admin.api.conftest import World
from tests.admin.declared import audit

V1 = "/api/v1/keys"
SHORT = "/api/keys"


async def test_a_key_is_made_works_and_is_revoked(world: World) -> None:
    made = await world.test.post(V1, {"name": "ci", "requests_per_minute": 5, "allowed_ips": ["127.0.0.0/8"]})
    assert made.status == 201
    text = made.json["key"]
    assert is_well_formed(text.encode())
    assert (made.json["prefix"], made.json["mode"], made.json["kind"]) == (text[:12], "test", "sk")
    shown = (await world.test.get(made.headers["Location"])).json
    assert shown == {name: value for name, value in made.json.items() if name != "key"}
    assert shown["allowed_ips"] == ["127.0.0.0/8"]

    assert (await world.client(text).get(V1)).status == 200
    revoked = await world.test.delete(made.headers["Location"])
    assert revoked.status == 200
    assert revoked.json["revoked_at"] is not None
    assert (await world.client(text).get(V1)).code == "key_revoked"
    assert (await world.test.delete(made.headers["Location"])).json == revoked.json
    assert [row["action"] for row in await audit(world.pg) if row["noun"] == "key"][-2:] == ["created", "revoked"]


async def test_the_text_is_nowhere_but_in_the_answer(world: World) -> None:
    text = (await world.test.post(V1, {"name": "ci"})).json["key"]
    assert text not in (await world.test.get(V1)).text
    for table in ("keys", "audit", "changes", "idempotent_requests"):
        assert text[12:] not in str(await world.pg.fetch(f"SELECT {table}::text FROM {table}"))


async def test_a_customers_key(world: World) -> None:
    made = (await world.test.post(V1, {"name": "ada's", "kind": "ck", "customer": "ada"})).json
    assert made["key"].startswith("ck_test_")
    assert made["customer"] == "ada"
    short = await world.test.post(SHORT, {"name": "ada's second", "customer": "ada"})
    assert short.json["key"].startswith("ck_test_")


WRONG: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {"name": "is missing"}),
    ({"name": "x", "kind": "zz"}, {"kind": "expected 'sk', 'pk' or 'ck', got 'zz'"}),
    ({"name": "x", "kind": "ck"}, {"": "a ck key needs a customer, and only a ck key has one"}),
    ({"name": "x", "mode": "live"}, {"mode": "this is a test key, and serves that mode alone"}),
    ({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, {"expires_at": "expires_at is in the past"}),
    (
        {"name": "x", "expires_at": "soon"},
        {"expires_at": "expected a moment such as 2027-01-31T00:00:00Z, got 'soon'"},
    ),
    (
        {"name": "x", "allowed_ips": ["10.0.0.1/8"]},
        {
            "allowed_ips[0]": "expected a network such as 10.0.0.0/8,"
            " or a network such as 2001:db8::/32, got '10.0.0.1/8'"
        },
    ),
]


async def test_what_is_wrong_with_a_key_is_told(world: World) -> None:
    for body, errors in WRONG:
        answer = await world.test.post(V1, body)
        assert (answer.status, answer.errors) == (422, errors)


async def test_a_rotated_key_works_until_its_grace_is_over(world: World) -> None:
    old = (await world.test.post(V1, {"name": "ci", "scopes": ["admin"]})).json
    answer = await world.test.post(f"{V1}/{old['id']}/rotate", {"graceSeconds": 60})
    assert answer.status == 201
    new = answer.json
    assert (new["name"], new["scopes"], new["expires_at"]) == ("ci", ["admin"], None)
    assert new["rotated"]["id"] == old["id"]
    until = datetime.fromisoformat(new["rotated"]["expires_at"])
    assert timedelta(seconds=50) < until - datetime.now(UTC) <= timedelta(seconds=60)
    for text in (old["key"], new["key"]):
        assert (await world.client(text).get(V1)).status == 200
    await world.pg.execute("UPDATE keys SET expires_at = now() WHERE id = $1", old["id"])
    assert (await world.client(old["key"]).get(V1)).code == "key_expired"
    assert (await world.client(new["key"]).get(V1)).status == 200


async def test_a_rotation_without_grace_ends_the_old_key_now(world: World) -> None:
    old = (await world.test.post(V1, {"name": "ci"})).json
    assert (await world.test.post(f"{V1}/{old['id']}/rotate")).status == 201
    assert (await world.client(old["key"]).get(V1)).code == "key_expired"


async def test_a_key_is_rotated_once(world: World) -> None:
    old = (await world.test.post(V1, {"name": "ci"})).json
    new = (await world.test.post(f"{V1}/{old['id']}/rotate", {"graceSeconds": 60})).json
    again = await world.test.post(f"{V1}/{old['id']}/rotate", {"graceSeconds": 60})
    assert (again.status, again.json["detail"]) == (
        409,
        f"key {old['id']} was rotated before; rotate its successor {new['id']}",
    )


async def test_a_grace_that_is_none(world: World) -> None:
    key = (await world.test.post(V1, {"name": "ci"})).json
    for grace in (-1, 30 * 86_400 + 1, "x", 1.5, None):
        answer = await world.test.post(f"{V1}/{key['id']}/rotate", {"graceSeconds": grace})
        assert (answer.status, list(answer.errors)) == (422, ["graceSeconds"])


async def test_the_short_names(world: World) -> None:
    moment = "2030-01-31T00:00:00Z"
    body = {
        "name": "web",
        "kind": "pk",
        "scopes": ["a"],
        "rateLimitPerMinute": 7,
        "allowedDomains": ["*.example.com"],
        "expiresAt": moment,
    }
    made = await world.test.post(SHORT, body)
    assert (made.status, set(made.json)) == (201, {"key", "id", "prefix"})
    (shown,) = [key for key in (await world.test.get(SHORT)).json["data"] if key["id"] == made.json["id"]]
    assert (
        shown.items()
        >= {
            **{name: value for name, value in body.items() if name != "expiresAt"},
            "prefix": made.json["key"][:12],
            "lastUsedAt": None,
            "revokedAt": None,
        }.items()
    )
    assert datetime.fromisoformat(shown["expiresAt"]) == datetime.fromisoformat(moment)
    rotated = await world.test.post(f"{SHORT}/{made.json['id']}/rotate", {"graceSeconds": 5})
    assert (rotated.status, set(rotated.json)) == (201, {"key", "id", "prefix", "oldKeyExpiresAt"})
    revoked = await world.test.delete(f"{SHORT}/{rotated.json['id']}")
    assert (revoked.status, revoked.json["revokedAt"] is not None) == (200, True)
    assert (await world.test.get(f"{SHORT}/{rotated.json['id']}")).json == revoked.json


async def test_the_short_names_are_told_in_errors(world: World) -> None:
    body = {"name": "x", "rateLimitPerMinute": 10_001, "allowedDomains": ["a b"], "expiresAt": "soon"}
    answer = await world.test.post(SHORT, body)
    assert set(answer.errors) == {"rateLimitPerMinute", "allowedDomains[0]", "expiresAt"}
    answer = await world.test.post(SHORT, {"name": "x", "expiresAt": "2001-01-01T00:00:00Z"})
    assert (answer.status, list(answer.errors)) == (422, ["expiresAt"])
    for ours in ("requests_per_minute", "mode", "allowed_ips"):
        assert ours in (await world.test.post(SHORT, {"name": "x", ours: 1})).errors


async def test_tiers_for_browsers(world: World) -> None:
    answer = await world.publishable.get("/api/tiers", Origin="https://shop.example")
    assert {tier["name"] for tier in answer.json["data"]} == {"free", "pro"}
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert (await world.test.get("/api/tiers")).json == answer.json
    assert (await world.customer.get("/api/tiers")).status == 403
    refused = await world.client(None).get("/api/tiers")
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, "*")
    preflight = await world.client(None)("OPTIONS", "/api/tiers", Origin="https://shop.example")
    assert (preflight.status, preflight.headers["Access-Control-Allow-Methods"]) == (204, "GET")
    assert "Access-Control-Allow-Origin" not in (await world.test.get("/api/v1/tiers")).headers
