"""Projects over HTTP, for the operator."""

from __future__ import annotations

from tests.admin.api.conftest import World


async def test_a_project_is_made_and_gets_its_first_key(world: World) -> None:
    made = await world.platform.post("/api/v1/projects", {"name": "New", "kind": "store"})
    assert (made.status, made.json["kind"]) == (201, "store")
    assert (await world.platform.get(made.headers["Location"])).json == made.json
    key = await world.platform.post(f"{made.headers['Location']}/keys", {"name": "first"})
    assert key.status == 201
    own = (await world.client(key.json["key"]).get("/api/v1/project")).json
    assert (own["id"], own["mode"]) == (made.json["id"], "test")


async def test_names_are_unique_and_checked(world: World) -> None:
    answer = await world.platform.post("/api/v1/projects", {"name": "Shop"})
    assert (answer.status, list(answer.errors)) == (409, ["name"])
    answer = await world.platform.post("/api/v1/projects", {"name": "", "kind": "zoo", "colour": "red"})
    assert set(answer.errors) == {"name", "kind", "colour"}


async def test_what_is_in_a_project_is_made_elsewhere(world: World) -> None:
    answer = await world.platform.post("/api/v1/projects", {"name": "New", "tiers": []})
    assert list(answer.errors) == ["tiers"]


async def test_the_platforms_live_keys_make_live_keys(world: World) -> None:
    live = world.client(await world.key("prj_platform", mode="live"))
    key = await live.post(f"/api/v1/projects/{world.shop_id}/keys", {"name": "first"})
    assert key.json["key"].startswith("sk_live_")


async def test_a_project_that_is_not_there(world: World) -> None:
    assert (await world.platform.get("/api/v1/projects/prj_0")).status == 404
    assert (await world.platform.post("/api/v1/projects/prj_0/keys", {"name": "x"})).status == 404
