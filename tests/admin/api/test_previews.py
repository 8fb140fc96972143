"""Looking before changing: dry runs of updates and deletions, and whom a tier's change touches."""

from __future__ import annotations

from typing import Any

from tests.admin.api.conftest import World

TIERS = "/api/v1/tiers"


async def tier_of(world: World, name: str) -> dict[str, Any]:
    listed = (await world.test.get(f"{TIERS}?limit=100")).json["data"]
    return next(tier for tier in listed if tier["name"] == name)


async def test_a_tiers_change_is_shown_with_whom_it_touches(world: World) -> None:
    made = await world.test.post("/api/v1/customers", {"external_id": "grace", "name": "Grace", "tier": "pro"})
    await world.test.post("/api/v1/customers", {"external_id": "linus"})  # on the default tier
    pro = await tier_of(world, "pro")
    audit = await world.pg.fetchval("SELECT count(*) FROM audit")
    looked = await world.test("PATCH", f"{TIERS}/{pro['id']}?dry_run=true", {"requests_per_minute": 7, "default": True})
    assert looked.status == 200
    by_name = {change["name"]: change["fields"] for change in looked.json["changes"]}
    assert by_name["pro"]["requests_per_minute"]["after"] == 7
    assert by_name["free"] == {"default": {"before": True, "after": False}}  # stops being it
    assert {"id": made.json["id"], "name": "Grace"} in looked.json["affected"]["first"]
    assert looked.json["affected"]["by_default"] == 0
    assert (await tier_of(world, "pro")) == pro
    assert await world.pg.fetchval("SELECT count(*) FROM audit") == audit
    free = await tier_of(world, "free")
    affected = (await world.test("PATCH", f"{TIERS}/{free['id']}?dry_run=true", {"title": "x"})).json["affected"]
    assert affected["by_default"] >= 1
    assert "linus" in {one["name"] for one in affected["first"]}


async def test_of_many_ten_are_named(world: World) -> None:
    for n in range(12):
        await world.test.post("/api/v1/customers", {"external_id": f"many-{n}", "tier": "pro"})
    pro = await tier_of(world, "pro")
    affected = (await world.test("PATCH", f"{TIERS}/{pro['id']}?dry_run=true", {"title": "x"})).json["affected"]
    assert (affected["customers"] >= 12, len(affected["first"])) == (True, 10)


async def test_a_dry_run_refuses_what_the_change_would(world: World) -> None:
    pro = await tier_of(world, "pro")
    await world.test.post("/api/v1/customers", {"external_id": "grace", "tier": "pro"})
    path = f"{TIERS}/{pro['id']}"
    assert (await world.test("PATCH", f"{path}?dry_run=true", {"price_minor": -1})).status == 422
    assert (await world.test("DELETE", f"{path}?dry_run=true")).status == 409
    assert (await world.test("PATCH", f"{path}?dry_run=maybe", {"title": "x"})).status == 422
    assert (await world.test("PATCH", f"{path}?dry_run=true", {"title": "x"}, If_Match='"0"')).status == 412


async def test_a_deletion_is_looked_at_first(world: World) -> None:
    for noun, body in (("tiers", {"name": "gone"}), ("customers", {"external_id": "gone"})):
        path = (await world.test.post(f"/api/v1/{noun}", body)).headers["Location"]
        looked = await world.test("DELETE", f"{path}?dry_run=true")
        assert [change["action"] for change in looked.json["changes"]] == ["deleted"]
        assert (await world.test("DELETE", path)).status == 204  # it was there still


async def test_a_dry_run_and_the_change_are_two_requests(world: World) -> None:
    """With one Idempotency-Key the second is told apart from the first."""
    body = {"projects": [{"name": "Shop", "tiers": [{"name": "extra"}]}]}
    assert (await world.test.post("/api/v1/apply?dry_run=true", body, Idempotency_Key="k")).status == 200
    second = await world.test.post("/api/v1/apply", body, Idempotency_Key="k")
    assert (second.status, second.code) == (422, "idempotency_key_reused")


async def test_alerts_are_set_and_listed(world: World) -> None:
    path = "/api/v1/alerts/settings"
    assert (await world.test.get(path)).json == {"percents": [50, 80, 100], "by_mail": True}
    set_ = await world.test("PATCH", path, {"percents": [90, 70, 90], "by_mail": False})
    assert set_.json == {"percents": [70, 90], "by_mail": False}
    assert (await world.test("PATCH", path, {"by_mail": True})).json["percents"] == [70, 90]
    for wrong in ({"percents": [0]}, {"percents": [101]}, {"percents": "x"}, {"marks": []}):
        assert (await world.test("PATCH", path, wrong)).status == 422
    customer = (await world.test.post("/api/v1/customers", {"external_id": "near", "name": "Near"})).json["id"]
    for number, meter in enumerate(("requests", "$spend")):
        await world.pg.execute(
            "INSERT INTO alerts (id, project_id, mode, customer_id, meter, period_start, percent, used, quota)"
            " VALUES ($1, $2, 'test', $3, $4, now(), 80, 8, 10)",
            f"alr_{number}",
            world.shop_id,
            customer,
            meter,
        )
    first = (await world.test.get("/api/v1/alerts?limit=1")).json
    rest = (await world.test.get(f"/api/v1/alerts?limit=1&cursor={first['next_cursor']}")).json
    assert [(one["kind"], one["meter"]) for one in (*first["data"], *rest["data"])] == [
        ("spend_cap", None),
        ("quota", "requests"),
    ]
    assert (rest["next_cursor"], rest["data"][0]["name"]) == (None, "Near")
    for other in (world.live, world.rival):
        assert (await other.get("/api/v1/alerts")).json["data"] == []
