"""No key sees or touches anything outside its project and mode: every endpoint is tried with every stranger."""

from __future__ import annotations

from typing import Any

import pytest

from admin.app import ENDPOINTS
from tests.admin.api.conftest import Client, World

TABLES = ("projects", "tiers", "tier_quotas", "customers", "subscriptions", "issuers", "upstreams", "routes", "keys")
BODIES: dict[str, Any] = {
    "tiers": {"title": "x"},
    "customers": {"name": "x"},
    "issuers": {},
    "upstreams": {},
    "routes": {"retries": 0},
}
BY_MODE = ("tiers", "customers", "issuers", "keys")
BY_PROJECT = (*BY_MODE, "upstreams", "routes")


async def everything(world: World) -> dict[str, Any]:
    """The content of all control tables."""
    return {table: await world.pg.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


async def objects(world: World, plural: str, project_id: str, mode: str | None = None) -> list[str]:
    column = "spec ->> 'mode'" if plural == "issuers" else "mode"
    where = "" if mode is None else f" AND {column} = '{mode}'"
    rows = await world.pg.fetch(f"SELECT id FROM {plural} WHERE project_id = $1{where}", project_id)
    return [row["id"] for row in rows]


def strangers(world: World) -> dict[str, tuple[Client, str, str]]:
    """A caller, and the project and mode whose objects are none of its business."""
    return {
        "another project": (world.rival, world.shop_id, "test"),
        "another project's live half": (world.rival, world.shop_id, "live"),
        "the test half looking at live": (world.test, world.shop_id, "live"),
        "the live half looking at test": (world.live, world.shop_id, "test"),
        "the platform": (world.platform, world.shop_id, "test"),
    }


STRANGERS = [
    "another project",
    "another project's live half",
    "the test half looking at live",
    "the live half looking at test",
    "the platform",
]


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_foreign_objects_are_not_there(world: World, stranger: str) -> None:
    client, project_id, mode = strangers(world)[stranger]
    before = await everything(world)
    plurals = BY_MODE if client in (world.test, world.live) else BY_PROJECT
    tried = 0
    for endpoint in ENDPOINTS:
        plural = (
            endpoint.path.split("/")[-2 if endpoint.path.endswith("{id}") else -3] if "{id}" in endpoint.path else ""
        )
        if plural not in plurals:
            continue
        for object_id in await objects(world, plural, project_id, mode if plural in BY_MODE else None):
            path = endpoint.path.replace("{id}", object_id)
            answer = await client(endpoint.method, path, BODIES.get(plural, {}) if endpoint.writes else None)
            assert (answer.status, answer.code) == (404, "not_found"), (endpoint.method, path)
            tried += 1
    assert tried > 10
    assert await everything(world) == before


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_lists_hold_ones_own_only(world: World, stranger: str) -> None:
    client, project_id, mode = strangers(world)[stranger]
    for endpoint in ENDPOINTS:
        plural = endpoint.path.split("/")[-1]
        if endpoint.method != "GET" or plural not in (BY_MODE if client in (world.test, world.live) else BY_PROJECT):
            continue
        listed = {item["id"] for item in (await client.get(f"{endpoint.path}?limit=100")).json["data"]}
        foreign = set(await objects(world, plural, project_id, mode if plural in BY_MODE else None))
        assert foreign
        assert not listed & foreign, endpoint.path


async def test_a_cursor_of_another_project_opens_nothing(world: World) -> None:
    for path in ("/api/v1/tiers", "/api/v1/customers", "/api/v1/keys", "/api/keys"):
        cursor = (await world.test.get(f"{path}?limit=1")).json["next_cursor"]
        mine = {item["id"] for item in (await world.rival.get(f"{path}?limit=100")).json["data"]}
        got = {item["id"] for item in (await world.rival.get(f"{path}?limit=100&cursor={cursor}")).json["data"]}
        assert got <= mine


async def test_references_stay_inside_the_project(world: World) -> None:
    await world.rival.post("/api/v1/upstreams", {"name": "rivals", "targets": ["http://rival"]})
    await world.rival.post("/api/v1/tiers", {"name": "rivals"})
    await world.rival.post("/api/v1/customers", {"external_id": "rivals"})
    route = await world.test.post("/api/v1/routes", {"name": "x", "path": "/x", "upstream": "rivals"})
    customer = await world.test.post("/api/v1/customers", {"external_id": "x", "tier": "rivals"})
    key = await world.test.post("/api/v1/keys", {"name": "x", "kind": "ck", "customer": "rivals"})
    assert [route.status, customer.status, key.status] == [422, 422, 422]
    live_only = await world.live.post("/api/v1/customers", {"external_id": "live-only"})
    key = await world.test.post("/api/v1/keys", {"name": "x", "kind": "ck", "customer": "live-only"})
    assert (live_only.status, key.status) == (201, 422)


async def test_the_same_names_live_side_by_side(world: World) -> None:
    for client in (world.test, world.live, world.rival, world.platform):
        for path, body in (("tiers", {"name": "gold"}), ("customers", {"external_id": "eve", "email": "e@e"})):
            assert (await client.post(f"/api/v1/{path}", body)).status == 201


async def test_apply_and_export_stay_inside_the_project_and_mode(world: World) -> None:
    before = await everything(world)
    foreign = {"projects": [{"name": "Rival", "tiers": [{"name": "stolen"}]}]}
    new = {"projects": [{"name": "Shop"}, {"name": "Brand new"}]}
    for body in (foreign, new):
        answer = await world.test.post("/api/v1/apply", body)
        assert (answer.status, answer.code) == (403, "wrong_project")
    assert await everything(world) == before
    text = (await world.test.get("/api/v1/export")).text
    assert "Rival" not in text
    assert "live" not in text


async def test_projects_are_for_the_platform(world: World) -> None:
    for method, path in (
        ("GET", "/api/v1/projects"),
        ("POST", "/api/v1/projects"),
        ("GET", f"/api/v1/projects/{world.shop_id}"),
        ("POST", f"/api/v1/projects/{world.rival_id}/keys"),
    ):
        answer = await world.test(method, path, {"name": "x"})
        assert (answer.status, answer.code) == (403, "forbidden")


async def test_idempotency_keys_of_others_are_not_mine(world: World) -> None:
    for client in (world.test, world.live, world.rival):
        answer = await client.post("/api/v1/tiers", {"name": "gold"}, Idempotency_Key="same")
        assert answer.status == 201
        assert "Idempotency-Replayed" not in answer.headers
