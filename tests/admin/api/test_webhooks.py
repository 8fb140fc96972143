"""Webhook endpoints over HTTP: the secret is shown once, changes are told to who listens, the log can be sent again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from admin.credentials import reseal
from ledger.vault import Vault
from tests.admin.api.conftest import World

PATH = "/api/v1/webhooks"
URL = "https://hooks.example.com/tollgate"


async def made(world: World, **fields: Any) -> Any:
    answer = await world.test.post(PATH, {"url": URL, **fields})
    assert answer.status == 201, answer.text
    return answer.json


async def test_the_secret_is_shown_once_and_kept_sealed(world: World) -> None:
    endpoint = await made(world)
    assert endpoint["secret"].startswith("whsec_")
    shown = (await world.test.get(f"{PATH}/{endpoint['id']}")).json
    assert shown == {name: value for name, value in endpoint.items() if name != "secret"}
    rotated = await world.test.post(f"{PATH}/{endpoint['id']}/rotate")
    assert (rotated.status, rotated.json["secret"] != endpoint["secret"]) == (201, True)
    assert rotated.json["old_secret_until"] is not None
    for table in ("webhook_endpoints", "audit", "idempotent_requests"):
        rows = str(await world.pg.fetch(f"SELECT {table}::text FROM {table}"))
        for secret in (endpoint["secret"], rotated.json["secret"]):
            assert secret[8:] not in rows


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "ftp://x"}, "url"),
        ({"url": "https://user@example.com"}, "url"),
        ({"url": f"https://example.com/{'x' * 2000}"}, "url"),
        ({"url": URL, "events": "key.created"}, "events"),
        ({"url": URL, "colour": 1}, "colour"),
    ],
)
async def test_what_is_wrong_is_told(world: World, body: dict[str, Any], field: str) -> None:
    answer = await world.test.post(PATH, body)
    assert (answer.status, list(answer.errors)) == (422, [field])


async def test_unknown_events_are_told(world: World) -> None:
    answer = await world.test.post(PATH, {"url": URL, "events": ["key.exploded"]})
    assert (answer.status, "key.exploded" in answer.json["detail"]) == (422, True)


async def test_changes_are_told_in_their_transaction(world: World) -> None:
    await made(world, events=["key.created", "tier.updated"])
    key = (await world.test.post("/api/v1/keys", {"name": "ci"})).json
    await world.live.post("/api/v1/keys", {"name": "other half"})
    tier = await world.test.post("/api/v1/tiers", {"name": "gold"})
    await world.test("PATCH", tier.headers["Location"], {"title": "Gold"})
    assert (await world.test.post("/api/v1/keys", {"name": "x", "kind": "ck", "customer": "nobody"})).status == 422
    bodies = [json.loads(row["body"]) for row in await world.pg.fetch("SELECT body FROM webhook_messages ORDER BY id")]
    assert [(body["type"], body["data"]["name"]) for body in bodies] == [
        ("key.created", "ci"),
        ("tier.updated", "gold"),
    ]
    assert key["key"] not in str(bodies)


async def test_the_log_and_sending_again(world: World) -> None:
    endpoint = await made(world)
    path = f"{PATH}/{endpoint['id']}"
    assert (await world.test.post(f"{path}/test")).status == 202
    (delivery,) = (await world.test.get(f"{path}/deliveries")).json["data"]
    assert (delivery["type"], delivery["state"]) == ("test.sent", "pending")
    again = await world.test.post(f"{path}/deliveries/{delivery['id']}/resend")
    assert again.status == 202
    both = (await world.test.get(f"{path}/deliveries")).json["data"]
    assert {one["message_id"] for one in both} == {delivery["message_id"]}
    assert (await world.test.get(path)).json["pending"] == 2
    for unknown in ("dlv_0", "dlv_99999999999999999999", "x"):
        assert (await world.test.post(f"{path}/deliveries/{unknown}/resend")).status == 404
    other = await made(world)
    assert (await world.test.post(f"{PATH}/{other['id']}/deliveries/{delivery['id']}/resend")).status == 404


async def test_others_see_nothing(world: World) -> None:
    endpoint = await made(world)
    for client in (world.rival, world.live, world.platform):
        assert (await client.get(PATH)).json["data"] == []
        for method, more in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/test")):
            body = {} if method == "PATCH" else None
            assert (await client(method, f"{PATH}/{endpoint['id']}{more}", body)).status == 404
    assert (await world.test.delete(f"{PATH}/{endpoint['id']}")).status == 204


async def test_twenty_are_enough(world: World) -> None:
    for _ in range(20):
        await made(world)
    assert (await world.test.post(PATH, {"url": URL})).code == "conflict"


async def test_a_newer_encryption_key_seals_the_secrets_again(world: World) -> None:
    old, new = Vault([b"1" * 32]), Vault([b"2" * 32, b"1" * 32])
    endpoint = await made(world)
    secret = endpoint["secret"]
    for column in ("secret", "old_secret"):
        sealed = old.seal(secret, endpoint["id"])
        await world.pg.execute(f"UPDATE webhook_endpoints SET {column} = $1", sealed)
    assert (await reseal(world.pg, new)).resealed == 2
    row = await world.pg.fetchrow("SELECT secret, old_secret FROM webhook_endpoints")
    for sealed in row:
        assert Vault([b"2" * 32]).open(sealed, endpoint["id"]) == secret
