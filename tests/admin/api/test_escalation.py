"""Nobody hands out more than they have: a key that administers is made and rotated by who may do what it may."""

from __future__ import annotations

from typing import Any

import pytest

from admin.permissions import SECRET_KEY, TABLE, Permission, Role, administers, needed_for
from ledger.keys import KeyKind
from tests.admin.api.conftest import World
from tests.admin.web.conftest import Enter, enter

__all__ = ["enter"]
KEYS = "/api/v1/keys"
MIGHTY: list[dict[str, Any]] = [{}, {"scopes": ["admin"]}, {"scopes": ["run", "admin"]}]
WEAK: list[dict[str, Any]] = [{"scopes": ["calls"]}, {"kind": "pk"}, {"kind": "ck", "customer": "ada"}]


@pytest.mark.parametrize("path", [KEYS, "/api/keys"])
async def test_a_member_makes_keys_that_administer_nothing(world: World, enter: Enter, path: str) -> None:
    member = (await enter("member@example.com", Role.MEMBER)).browser
    for fields in MIGHTY:
        refused = await member.post(path, {"name": "x", **fields})
        assert (refused.status, refused.code) == (403, "forbidden"), fields
    for fields in WEAK:
        made = await member.post(path, {"name": "x", **fields})
        assert made.status == 201, fields
        changed = await world.client(made.json["key"]).post("/api/v1/tiers", {"name": "mine"})
        assert changed.status == 403
    admin = (await enter("admin@example.com", Role.ADMIN)).browser
    assert [(await admin.post(path, {"name": "x", **fields})).status for fields in MIGHTY] == [201] * 3


async def test_a_member_rotates_no_key_that_administers(world: World, enter: Enter) -> None:
    strong = (await world.test.post(KEYS, {"name": "strong"})).json
    weak = (await world.test.post(KEYS, {"name": "weak", "scopes": ["calls"]})).json
    member = await enter("member@example.com", Role.MEMBER)
    for path in (f"{KEYS}/{strong['id']}/rotate", f"/api/keys/{strong['id']}/rotate"):
        assert (await member.browser.post(path, {})).status == 403
    await member.open(f"/dashboard/keys/{strong['id']}/rotate")
    assert (await member.send()).status == 403
    assert (await member.browser.post(f"{KEYS}/{weak['id']}/rotate", {})).status == 201
    assert (await world.client(strong["key"]).get("/api/v1/tiers")).status == 200  # as it was


async def test_the_form_says_what_a_member_may_make(world: World, enter: Enter) -> None:
    member = await enter("member@example.com", Role.MEMBER)
    await member.open("/dashboard/keys/new")
    assert (await member.send(name="backend")).status == 422
    assert 'id="scopes-error"' in member.html
    assert (await member.send(name="backend", scopes="calls")).status == 200
    assert "I have copied it" in member.html


async def test_a_first_key_of_a_member_administers_nothing(world: World, enter: Enter) -> None:
    member = await enter("member@example.com", Role.MEMBER)
    await world.pg.execute("UPDATE keys SET revoked_at = now() WHERE project_id = $1", world.shop_id)
    await member.open("/dashboard/start")
    assert (await member.send()).status == 200
    assert await world.pg.fetchval("SELECT scopes FROM keys ORDER BY id DESC LIMIT 1") == ["calls"]


async def test_a_trial_lends_nobody_the_say(world: World, enter: Enter) -> None:
    """The path of a trial is free text; the key that goes with it is refused by the API."""
    member = await enter("member@example.com", Role.MEMBER)
    route = await world.pg.fetchval("SELECT id FROM routes WHERE project_id = $1", world.shop_id)
    fields = [("csrf", member.browser.csrf), ("in", f"{world.shop_id}.test"), ("method", "POST")]
    fields += [("path", "/api/v1/tiers"), ("body", '{"name": "mine"}')]
    await member.post(f"/dashboard/routes/{route}/try", fields)
    row = await world.pg.fetchrow("SELECT scopes, revoked_at, kind FROM keys ORDER BY id DESC LIMIT 1")
    assert row["revoked_at"] is not None
    assert not administers(KeyKind(row["kind"]), row["scopes"])
    await world.pg.execute("UPDATE routes SET spec = jsonb_set(spec, '{scopes}', '[\"admin\"]') WHERE id = $1", route)
    await member.post(f"/dashboard/routes/{route}/try", fields)
    assert "may not hand out" in member.html


def test_who_may_make_what() -> None:
    assert needed_for(KeyKind.SECRET, ()) is Permission.ADMIN_KEYS_WRITE
    assert needed_for(KeyKind.SECRET, ("run",)) is Permission.KEYS_WRITE
    assert needed_for(KeyKind.CUSTOMER, ()) is Permission.KEYS_WRITE
    for role in Role:
        if Permission.ADMIN_KEYS_WRITE in TABLE[role]:
            assert TABLE[role] >= SECRET_KEY, role
