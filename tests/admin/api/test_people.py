"""Members, invitations, going live, renaming and deleting over the API, as people do it."""

from __future__ import annotations

import pytest

from admin.permissions import Role
from tests.admin.api.conftest import World
from tests.admin.people import post_mail
from tests.admin.web.conftest import Enter, enter

__all__ = ["enter"]
MEMBERS, INVITATIONS = "/api/v1/members", "/api/v1/invitations"


async def test_an_invitation_leads_to_membership(world: World, enter: Enter) -> None:
    owner = await enter("owner@example.com")
    made = await owner.browser.post(INVITATIONS, {"email": "Vera@Example.com", "role": "viewer"})
    assert (made.status, made.json["email"]) == (201, "vera@example.com")
    mail = (await post_mail(world.pg))[-1]
    assert (mail["recipient"], mail["subject"]) == ("vera@example.com", "owner@example.com invited you to Shop")
    vera = await enter("vera@example.com", None)
    assert (await vera.browser.get(MEMBERS, Tollgate_Project=world.shop_id)).status == 404
    await vera.open("/dashboard/invitations")
    assert (await vera.send("/dashboard/invitations", do="accept")).status == 200
    listed = (await vera.browser.get(MEMBERS, Tollgate_Project=world.shop_id)).json["data"]
    assert {one["email"]: one["role"] for one in listed} == {"owner@example.com": "owner", "vera@example.com": "viewer"}
    assert (await owner.browser.get(INVITATIONS)).json["data"] == []


async def test_an_invitation_is_for_its_address_alone(world: World, enter: Enter) -> None:
    owner = await enter("owner@example.com")
    made = await owner.browser.post(INVITATIONS, {"email": "vera@example.com", "role": "admin"})
    eve = await enter("eve@example.com", None)
    await eve.open("/dashboard/invitations")
    assert "No invitation is open" in eve.html
    fields = [("csrf", eve.browser.csrf), ("id", made.json["id"]), ("do", "accept")]
    assert (await eve.post("/dashboard/invitations", fields)).status == 422
    assert (await owner.browser("DELETE", f"{INVITATIONS}/{made.json['id']}")).status == 204
    vera = await enter("vera@example.com", None)
    await vera.open("/dashboard/invitations")
    assert "No invitation is open" in vera.html


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OWNER])
async def test_only_owners_touch_owners(world: World, enter: Enter, role: Role) -> None:
    first = await enter("first@example.com")
    other = await enter("other@example.com", role)
    is_owner = role is Role.OWNER
    invited = await other.browser.post(INVITATIONS, {"email": "x@example.com", "role": "owner"})
    assert invited.status == (201 if is_owner else 403)
    demoted = await other.browser("PATCH", f"{MEMBERS}/{first.account_id}", {"role": "viewer"})
    assert demoted.status == (200 if is_owner else 403)
    promoted = await other.browser("PATCH", f"{MEMBERS}/{other.account_id}", {"role": "owner"})
    assert promoted.status == (200 if is_owner else 403)


async def test_a_project_keeps_an_owner(world: World, enter: Enter) -> None:
    only = await enter("only@example.com")
    for method, body in (("PATCH", {"role": "admin"}), ("DELETE", None)):
        answer = await only.browser(method, f"{MEMBERS}/{only.account_id}", body)
        assert (answer.status, answer.code) == (409, "conflict")


async def test_no_key_manages_people(world: World) -> None:
    for method, path in (("GET", MEMBERS), ("POST", INVITATIONS), ("DELETE", "/api/v1/project?confirm=Shop")):
        assert (await world.test(method, path, {} if method == "POST" else None)).status == 403


async def test_going_live(world: World) -> None:
    await world.pg.execute("UPDATE keys SET revoked_at = now() WHERE mode = 'live'")
    await world.pg.execute("DELETE FROM subscriptions WHERE mode = 'live'")
    await world.pg.execute("DELETE FROM tiers WHERE mode = 'live'")
    made = await world.test.post("/promote-to-live")
    assert (made.status, {tier["name"] for tier in made.json["tiers"]}) == (200, {"free", "pro"})
    live = world.client(made.json["secretKey"]["key"])
    tiers = {tier["name"]: tier for tier in (await live.get("/api/v1/tiers")).json["data"]}
    assert tiers["pro"]["quotas"]["requests"]["limit"] == 5000
    again = await world.test.post("/promote-to-live")
    assert (again.json["tiers"], "secretKey" in again.json) == ([], False)
    await world.test("PATCH", (await world.test.post("/api/v1/tiers", {"name": "new"})).headers["Location"], {})
    assert [tier["name"] for tier in (await world.test.post("/promote-to-live")).json["tiers"]] == ["new"]


async def test_credentials_by_their_first_characters(world: World) -> None:
    found = (await world.test.get("/get-credentials")).json
    assert {key["prefix"] for key in found["test"]} >= {str(world.test.key)[:12]}
    assert str(world.test.key) not in str(found)


async def test_renaming_and_deleting(world: World, enter: Enter) -> None:
    owner = await enter("owner@example.com")
    assert (await owner.browser("PATCH", "/api/v1/project", {"name": "Rival"})).status == 409
    assert (await owner.browser("PATCH", "/api/v1/project", {"name": "Boutique"})).json["name"] == "Boutique"
    for confirm in ("", "?confirm=Shop"):
        assert (await owner.browser("DELETE", f"/api/v1/project{confirm}")).status == 422
    assert (await owner.browser("DELETE", "/api/v1/project?confirm=Boutique")).status == 204
    assert (await world.test.get("/api/v1/tiers")).code == "bad_credential"
    assert (await owner.browser.get("/auth/me")).json["projects"] == []
    assert await world.pg.fetchval("SELECT count(*) FROM audit WHERE project_id = $1", world.shop_id) > 0


async def test_the_audit_log_is_paged(world: World) -> None:
    for n in range(3):
        await world.test.post("/api/v1/tiers", {"name": f"t{n}"})
    first = (await world.test.get("/api/v1/audit?limit=2")).json
    assert [entry["after"]["name"] for entry in first["data"]] == ["t2", "t1"]
    rest = (await world.test.get(f"/api/v1/audit?limit=2&cursor={first['next_cursor']}")).json["data"]
    assert rest[0]["after"]["name"] == "t0"
