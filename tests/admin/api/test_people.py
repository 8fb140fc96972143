"""Members, invitations, going live, renaming and deleting over the API, as people do it."""

from __future__ import annotations

import pytest

from admin.permissions import Role
from tests.admin.api.conftest import World
from tests.admin.people import post_mail
from tests.admin.web.conftest import Enter, enter

__all__ = ["enter"]
PEOPLE = (("owner", Role.OWNER), ("vera", None), ("eve", None))
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


async def test_an_invitation_is_answered_by_api(world: World, enter: Enter) -> None:
    owner, vera, eve = [await enter(f"{name}@example.com", role) for name, role in PEOPLE]
    made = (await owner.browser.post(INVITATIONS, {"email": "vera@example.com", "role": "viewer"})).json
    listed = (await vera.browser.get("/auth/invitations")).json["data"]
    assert [(one["id"], one["project"]["name"], one["role"]) for one in listed] == [(made["id"], "Shop", "viewer")]
    path = f"/auth/invitations/{made['id']}"
    for method, one in (("POST", f"{path}/accept"), ("DELETE", path)):
        assert (await eve.browser(method, one)).status == 404
    csrf, vera.browser.csrf = vera.browser.csrf, ""
    assert (await vera.browser.post(f"{path}/accept")).code == "csrf"
    vera.browser.csrf = csrf
    assert (await vera.browser.post(f"{path}/accept")).json["role"] == "viewer"
    assert (await vera.browser.post(f"{path}/accept")).status == 404
    again = (await owner.browser.post(INVITATIONS, {"email": "eve@example.com", "role": "admin"})).json
    assert (await eve.browser("DELETE", f"/auth/invitations/{again['id']}")).status == 204
    assert (await eve.browser.get("/auth/invitations")).json["data"] == []
    assert (await eve.browser.get("/projects")).json["data"] == []


async def test_a_project_is_made_once(world: World, enter: Enter) -> None:
    ada, eve = await enter("ada@example.com", None), await enter("eve@example.com", None)
    first = await ada.browser.post("/projects", {"name": "Mine"}, Idempotency_Key="k")
    again = await ada.browser.post("/projects", {"name": "Mine"}, Idempotency_Key="k")
    assert (first.status, again.status, again.json) == (201, 201, first.json)
    assert (await ada.browser.post("/projects", {"name": "Other"}, Idempotency_Key="k")).status == 422
    assert (await eve.browser.post("/projects", {"name": "Hers"}, Idempotency_Key="k")).status == 201
    assert (await ada.browser.post("/projects", {"name": "Third"}, Idempotency_Key="a b")).status == 422
    assert [one["name"] for one in (await ada.browser.get("/projects")).json["data"]] == ["Mine"]


async def test_going_live_twice_with_one_key_tells_where_the_keys_are(world: World) -> None:
    await world.pg.execute("UPDATE keys SET revoked_at = now() WHERE mode = 'live'")
    assert (await world.test.post("/promote-to-live", Idempotency_Key="k")).status == 200
    again = await world.test.post("/promote-to-live", Idempotency_Key="k")
    assert (again.status, again.code, "/api/keys" in again.json["detail"]) == (409, "key_shown", True)


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
