"""Lists in pages."""

from __future__ import annotations

import base64

import pytest

from tests.admin.api.conftest import Client, World

CUSTOMERS = "/api/v1/customers"


async def walk(client: Client, path: str, limit: int) -> list[str]:
    """The ids on all pages, in order."""
    ids: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(f"{path}?limit={limit}{cursor}")).json
        assert len(page["data"]) <= limit
        ids += [item["id"] for item in page["data"]]
        if page["next_cursor"] is None:
            return ids
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.parametrize("plural", ["tiers", "customers", "keys"])
async def test_every_object_is_on_one_page(world: World, plural: str) -> None:
    for i in range(7):
        body = {"external_id": f"c{i}"} if plural == "customers" else {"name": f"n{i}"}
        assert (await world.test.post(f"/api/v1/{plural}", body)).status == 201
    rows = await world.pg.fetch(
        f"SELECT id FROM {plural} WHERE project_id = $1 AND mode = 'test' ORDER BY id DESC", world.shop_id
    )
    everything = [row["id"] for row in rows]
    for limit in (1, 2, 3, len(everything), 100):
        assert await walk(world.test, f"/api/v1/{plural}", limit) == everything


async def test_projects(world: World) -> None:
    assert set(await walk(world.platform, "/api/v1/projects", 1)) == {"prj_platform", world.shop_id, world.rival_id}


async def test_what_is_made_or_deleted_between_pages_disturbs_nothing(world: World) -> None:
    for i in range(9):
        await world.test.post(CUSTOMERS, {"external_id": f"c{i}"})
    before = await walk(world.test, CUSTOMERS, 100)
    first = (await world.test.get(f"{CUSTOMERS}?limit=4")).json
    seen = [item["id"] for item in first["data"]]
    for i in range(20):
        await world.test.post(CUSTOMERS, {"external_id": f"late{i}"})
    await world.test.delete(f"{CUSTOMERS}/{seen[-1]}")  # the one that the cursor stands on
    await world.test.delete(f"{CUSTOMERS}/{before[-1]}")
    cursor = first["next_cursor"]
    while cursor is not None:
        page = (await world.test.get(f"{CUSTOMERS}?limit=4&cursor={cursor}")).json
        seen += [item["id"] for item in page["data"]]
        cursor = page["next_cursor"]
    assert len(seen) == len(set(seen))
    assert set(before[:-1]) <= set(seen)


async def test_limits_that_are_none(world: World) -> None:
    for limit in ("0", "101", "-1", "1.5", "x", "", "１", "1000000000000"):
        answer = await world.test.get(f"{CUSTOMERS}?limit={limit}")
        assert (answer.status, list(answer.errors)) == (422, ["limit"])


async def test_cursors_that_are_none(world: World) -> None:
    for cursor in (
        "",
        "x",
        "é",
        "%00",
        *(base64.urlsafe_b64encode(text).decode() for text in (b"'; --", b"\0", b"\xff")),
    ):
        answer = await world.test.get(f"{CUSTOMERS}?cursor={cursor}")
        assert (answer.status, list(answer.errors)) == (422, ["cursor"])
