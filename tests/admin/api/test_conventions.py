"""What all endpoints have in common, asked of each one there is: nobody can forget it for the next."""

from __future__ import annotations

from typing import Any

import pytest

from admin.api import auth
from admin.api.call import Endpoint
from admin.app import ENDPOINTS
from tests.admin.api.conftest import Client, World
from tests.admin.api.test_people import INVITATIONS, MEMBERS
from tests.admin.web.conftest import Enter, enter

__all__ = ["enter"]
READS_BY_POST = {"/api/v1/usage/what-if", "/api/usage/what-if"}
NO_ETAG = {"/api/v1/invitations/{id}", "/api/v1/billing/account"}
"""Nothing can be read there that could have changed meanwhile."""
FOR_PEOPLE = (MEMBERS, INVITATIONS)


def test_every_post_that_changes_something_takes_an_idempotency_key() -> None:
    for endpoint in ENDPOINTS:
        if endpoint.method == "POST":
            assert endpoint.creates is (endpoint.path not in READS_BY_POST), endpoint.path
            assert endpoint.writes is endpoint.creates, endpoint.path
    assert [one.path for one in auth.ENDPOINTS if one.creates] == ["/projects"]


def test_every_update_takes_if_match() -> None:
    for endpoint in ENDPOINTS:
        if endpoint.method in ("PATCH", "DELETE"):
            assert endpoint.matches is (endpoint.path not in NO_ETAG), endpoint.path


def client_for(world: World, endpoint: Endpoint) -> Client:
    return world.platform if endpoint.platform_only else world.test


async def test_every_list_is_paged(world: World, enter: Enter) -> None:
    """Whatever answers `data` takes limit and cursor, says next_cursor, and refuses what is none."""
    person = await enter("owner@example.com")
    known = await identities(world, person.account_id)
    lists = 0
    for endpoint in ENDPOINTS:
        if endpoint.method != "GET" or "{event}" in endpoint.path or endpoint.produces != "application/json":
            continue
        path = filled(endpoint, known)
        ask: Any = person.browser.get if endpoint.path.startswith(FOR_PEOPLE) else client_for(world, endpoint).get
        answer = await ask(path)
        assert answer.status == 200, (path, answer.text)
        if "data" not in answer.json:
            continue
        lists += 1
        assert {"limit", "cursor"} <= endpoint.query, path
        assert "next_cursor" in answer.json, path
        for wrong in ("limit=0", "limit=101", "limit=x", "cursor=nonsense", "cursor=%00", "limit=1&limit=2"):
            assert (await ask(f"{path}?{wrong}")).status == 422, (path, wrong)
        assert len((await ask(f"{path}?limit=1")).json["data"]) <= 1, path
    assert lists > 15


async def test_no_parameter_breaks_anything(world: World, enter: Enter) -> None:
    """Every query parameter of every endpoint with what the database cannot hold, and what is no value of it."""
    person = await enter("owner@example.com")
    known = await identities(world, person.account_id)
    for endpoint in ENDPOINTS:
        path = filled(endpoint, known).replace("{event}", "0" * 32)
        ask: Any = person.browser if endpoint.path.startswith(FOR_PEOPLE) else client_for(world, endpoint)
        for name in endpoint.query if endpoint.method == "GET" else ():
            for value in ("%00", "%ED%A0%80", "'", "%F0%9F%98%80", "x" * 2000, ""):
                assert (await ask("GET", f"{path}?{name}={value}")).status in (200, 404, 422), (path, name, value)


async def identities(world: World, account_id: str) -> dict[str, str]:
    """The id of something of each noun in project Shop, test mode."""
    hook = await world.test.post("/api/v1/webhooks", {"url": "https://hooks.example/x"})
    assert hook.status == 201, hook.text
    found = {"members": account_id, "webhooks": hook.json["id"], "projects": world.shop_id}
    for noun in ("tiers", "customers", "issuers", "keys", "upstreams", "routes"):
        found[noun] = (await world.test.get(f"/api/v1/{noun}?limit=1")).json["data"][0]["id"]
    return found


def filled(endpoint: Endpoint, known: dict[str, str]) -> str:
    if "{id}" not in endpoint.path:
        return endpoint.path
    noun = endpoint.path.removeprefix("/api/v1/").removeprefix("/api/").partition("/")[0]
    return endpoint.path.replace("{id}", known.get(noun, "inv_0"))


CHANGES: dict[str, dict[str, Any]] = {
    "/api/v1/tiers/{id}": {"title": "Changed"},
    "/api/v1/customers/{id}": {"name": "Changed"},
    "/api/v1/issuers/{id}": {"audiences": ["changed"]},
    "/api/v1/upstreams/{id}": {"connect_timeout_ms": 1234},
    "/api/v1/routes/{id}": {"retries": 0},
    "/api/v1/webhooks/{id}": {"events": ["key.created"]},
    "/api/v1/members/{id}": {"role": "admin"},
    "/api/v1/project": {"name": "Changed"},
    "/api/v1/alerts/settings": {"percents": [70]},
}


async def test_an_update_happens_to_what_was_read_or_not_at_all(world: World, enter: Enter) -> None:
    await enter("another@example.com")  # a project keeps an owner
    person = await enter("owner@example.com")
    known = await identities(world, person.account_id)
    tried = 0
    for endpoint in ENDPOINTS:
        if endpoint.method != "PATCH":
            continue
        path, body = filled(endpoint, known), CHANGES[endpoint.path]
        ask: Any = person.browser if endpoint.path.startswith(FOR_PEOPLE) else client_for(world, endpoint)
        read = await ask("GET", path)
        stale = await ask("PATCH", path, body, If_Match='"0"')
        assert (stale.status, stale.code) == (412, "precondition_failed"), path
        assert (await ask("GET", path)).json == read.json, path
        changed = await ask("PATCH", path, body, If_Match=read.headers["ETag"])
        assert (changed.status, changed.headers["ETag"] != read.headers["ETag"]) == (200, True), path
        assert (await ask("PATCH", path, body, If_Match=read.headers["ETag"])).status == 412, path
        tried += 1
    assert tried == len(CHANGES)


async def test_a_deletion_happens_to_what_was_read_or_not_at_all(world: World, enter: Enter) -> None:
    await enter("another@example.com")
    person = await enter("owner@example.com")
    known = await identities(world, person.account_id)
    for endpoint in ENDPOINTS:
        if endpoint.method != "DELETE" or endpoint.path in NO_ETAG:
            continue
        path = filled(endpoint, known) + ("?confirm=Shop" if endpoint.path == "/api/v1/project" else "")
        is_for_people = endpoint.path.startswith((*FOR_PEOPLE, "/api/v1/project"))
        ask: Any = person.browser if is_for_people else client_for(world, endpoint)
        stale = await ask("DELETE", path, None, If_Match='"0"')
        assert (stale.status, stale.code) == (412, "precondition_failed"), path


async def test_being_used_is_no_change(world: World) -> None:
    made = (await world.test.post("/api/v1/keys", {"name": "used"})).json
    first = (await world.test.get(f"/api/v1/keys/{made['id']}")).headers["ETag"]
    await world.pg.execute("UPDATE keys SET last_used_at = now() WHERE id = $1", made["id"])
    read = await world.test.get(f"/api/v1/keys/{made['id']}")
    assert (read.json["last_used_at"] is not None, read.headers["ETag"]) == (True, first)


@pytest.mark.parametrize("by", ["customer", "key", "route", "day"])
async def test_a_breakdown_is_paged_from_the_top(world: World, by: str) -> None:
    rows = [
        (f"cus_{n}", f"key_{n}", f"rte_{n}", f"2027-01-0{9 - n}", meter, quantity * n)
        for n in range(1, 6)
        for meter, quantity in (("requests", 10), ("tokens", 3))
    ]
    await world.pg.executemany(
        "INSERT INTO usage_daily"
        " (project_id, mode, customer_id, key_id, route_id, day, meter, quantity, events, duration_us)"
        f" VALUES ('{world.shop_id}', 'test', $1, $2, $3, $4::text::date, $5, $6, 1, 1)",
        rows,
    )
    seen, cursor, pages = [], "", 0
    while cursor is not None:
        path = f"/api/v1/usage/breakdown?period=2027-01&by={by}&limit=2" + (f"&cursor={cursor}" if cursor else "")
        answer = (await world.test.get(path)).json
        seen += answer["data"]
        cursor, pages = answer["next_cursor"], pages + 1
    assert pages == 3
    whole = (await world.test.get(f"/api/v1/usage/breakdown?period=2027-01&by={by}")).json
    assert (whole["data"], whole["next_cursor"]) == (seen, None)
    assert [part["requests"] for part in seen] == [50, 40, 30, 20, 10]
    assert [part["byMeter"]["tokens"] for part in seen] == [15, 12, 9, 6, 3]
