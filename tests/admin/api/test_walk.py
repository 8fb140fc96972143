"""Every route of the control plane is one of those that are walked here, and no stranger gets anything by any of them.

The strangers: people of each role in another project, and keys of another project, of the other half, of another kind, with
scopes, revoked. What they name is really there: the ids are those of the project's own objects.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from admin.api import auth, stripe_notices
from admin.api.call import Endpoint
from admin.app import ENDPOINTS, _app
from admin.metrics import AdminMetrics
from admin.permissions import TABLE, Role
from admin.site import site_of
from admin.store import Store
from admin.web.pages import PAGES
from config.settings import AdminSettings
from ledger.dependency import Dependency
from ledger.keys import KeyKind
from tests.admin.api.conftest import Client, World
from tests.admin.api.test_usage import used
from tests.admin.web.conftest import Enter, enter

__all__ = ["enter", "used"]
OPEN = {
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/static/{name}"),
    ("OPTIONS", "/api/tiers"),
    *(("POST", path) for path in stripe_notices.PATHS),
}
"""What anybody may ask for; the last are for whoever signs as Stripe (tests/admin/api/test_stripe_notices.py)."""
LIVE = ("GET", "/dashboard/live/{part}")
"""Walked by tests/admin/web/test_live.py."""
TABLES = (
    *("projects", "tiers", "tier_quotas", "customers", "subscriptions", "issuers", "upstreams", "routes", "keys"),
    *("webhook_endpoints", "webhook_deliveries", "members", "invitations", "usage_daily", "billed_meters"),
)


def application() -> web.Application:
    metrics = AdminMetrics(CollectorRegistry())
    store = Store("postgresql://127.0.0.1:1/none", Dependency("postgres", lambda: None))
    return _app(store, metrics, site_of(AdminSettings()), 1024)


def routes() -> set[tuple[str, str]]:
    """The router's own table: method and path."""
    found = set()
    for route in application().router.routes():
        assert route.resource is not None
        path = re.sub(r"\{(\w+):[^/]*\}+", r"{\1}", route.resource.canonical)
        if route.method != "HEAD":  # comes with each GET
            found.add((route.method, path))
    return found


def test_every_route_is_walked() -> None:
    api = {(one.method, one.path) for one in (*ENDPOINTS, *auth.ENDPOINTS)}
    pages = {("GET", page.path) for page in PAGES} | {("POST", page.path) for page in PAGES if page.act is not None}
    short = {("GET", page.path.removeprefix("/dashboard")) for page in PAGES if page.path.startswith("/dashboard/")}
    there = routes()
    assert api <= there
    assert pages <= there
    assert there - api - pages - OPEN - {LIVE} <= short  # redirects to pages
    assert len(there) > 150


async def objects(world: World, used: dict[str, Any]) -> dict[str, str]:
    """An id of something of project Shop, test half, for every name in a path, by the word before it."""
    hook = await world.test.post("/api/v1/webhooks", {"url": "https://hooks.example"})
    await world.test.post(f"/api/v1/webhooks/{hook.json['id']}/test")
    await world.pg.execute(
        "INSERT INTO invitations (id, project_id, email, role, invited_by, expires_at) VALUES"
        " ('inv_shop', $1, 'somebody@example.com', 'viewer', 'cli', now() + interval '1 day')",
        world.shop_id,
    )
    found = {
        "webhooks": hook.json["id"],
        "deliveries": f"dlv_{await world.pg.fetchval('SELECT max(id) FROM webhook_deliveries')}",
        "invitations": "inv_shop",
        "members": await world.pg.fetchval("SELECT account_id FROM members WHERE project_id = $1", world.shop_id),
        "projects": world.shop_id,
        "events": used["ids"][0],
    }
    for noun in ("tiers", "customers", "keys"):
        found[noun] = await world.pg.fetchval(
            f"SELECT id FROM {noun} WHERE project_id = $1 AND mode = 'test' ORDER BY id LIMIT 1", world.shop_id
        )
    for noun in ("upstreams", "routes"):
        found[noun] = await world.pg.fetchval(f"SELECT id FROM {noun} WHERE project_id = $1", world.shop_id)
    found["issuers"] = await world.pg.fetchval(
        "SELECT id FROM issuers WHERE project_id = $1 AND spec ->> 'mode' = 'test'", world.shop_id
    )
    return found


def filled(endpoint: Endpoint, known: dict[str, str]) -> str:
    parts = endpoint.path.split("/")
    return "/".join(known[parts[n - 1]] if part.startswith("{") else part for n, part in enumerate(parts))


async def everything(world: World) -> dict[str, Any]:
    found = {}
    for table in TABLES:
        rows = await world.pg.fetch(f"SELECT * FROM {table} WHERE true")
        found[table] = sorted(str({k: v for k, v in row.items() if k != "last_used_at"}) for row in rows)
    return found


BODY: dict[str, Any] = {"name": "Stolen", "title": "Stolen", "reason": "theft", "role": "owner", "meter": "requests"}


@pytest.mark.parametrize("role", list(Role))
async def test_people_of_another_project(world: World, enter: Enter, used: dict[str, Any], role: Role) -> None:
    """With the ids of Shop's own objects, in their own project and claiming Shop: nothing is there, or not for them."""
    await enter("owner@example.com")
    known = await objects(world, used)
    eve = (await enter("eve@example.com", role, world.rival_id)).browser
    before = await everything(world)
    for endpoint in ENDPOINTS:
        body = BODY if endpoint.method in ("POST", "PATCH", "PUT") else None
        path = filled(endpoint, known)
        claimed = await eve(endpoint.method, path, body, Tollgate_Project=world.shop_id)
        assert (claimed.status, claimed.code) == (404, "not_found"), (endpoint.method, path)
        if "{" in endpoint.path:
            own = await eve(endpoint.method, path, body, Tollgate_Project=world.rival_id)
            expected = 404 if endpoint.needs in TABLE[role] and not endpoint.platform_only else 403
            assert own.status in {expected, 422 if expected == 404 and body else expected}, (
                endpoint.method,
                path,
                own.text,
            )
    assert await everything(world) == before


async def strangers(world: World) -> dict[str, tuple[Client, set[int]]]:
    revoked = await world.key(world.shop_id)
    await world.pg.execute("UPDATE keys SET revoked_at = now() WHERE id = (SELECT max(id) FROM keys)")
    return {
        "nobody": (world.client(None), {401}),
        "nonsense": (world.client("nonsense"), {401}),
        "a revoked key": (world.client(revoked), {401}),
        "a publishable key": (world.publishable, {403}),
        "a customer's key": (world.customer, {403}),
        "a key with other scopes": (world.client(await world.key(world.shop_id, scopes=["run"])), {403}),
        "a key for elsewhere": (world.client(await world.key(world.shop_id, allowed_ips=["192.0.2.0/24"])), {403}),
        "another project's key": (world.rival, {403, 404}),
    }


async def test_keys_of_strangers(world: World, enter: Enter, used: dict[str, Any]) -> None:
    await enter("owner@example.com")
    known = await objects(world, used)
    before = None
    found = await strangers(world)
    before = await everything(world)
    for who, (client, expected) in found.items():
        for endpoint in ENDPOINTS:
            if who == "another project's key" and "{" not in endpoint.path:
                continue  # its own project's
            if who == "a publishable key" and KeyKind.PUBLISHABLE in endpoint.kinds:
                continue
            body = BODY if endpoint.method in ("POST", "PATCH", "PUT") else None
            answer = await client(endpoint.method, filled(endpoint, known), body)
            wrong = {422} if body and 404 in expected else set()
            assert answer.status in expected | wrong, (who, endpoint.method, endpoint.path, answer.text)
    assert await everything(world) == before


async def test_the_other_half(world: World, enter: Enter, used: dict[str, Any]) -> None:
    """A live key sees no test object: what serves both halves, and what is the project's, it does."""
    await enter("owner@example.com")
    known = await objects(world, used)
    both = ("upstreams", "routes", "members", "invitations", "projects")
    tried = 0
    for endpoint in ENDPOINTS:
        if "{" not in endpoint.path or any(f"/{noun}/" in endpoint.path for noun in both):
            continue
        body = BODY if endpoint.method in ("POST", "PATCH", "PUT") else None
        answer = await world.live(endpoint.method, filled(endpoint, known), body)
        assert answer.status == 404 or (answer.status == 422 and body), (endpoint.method, endpoint.path, answer.text)
        tried += 1
    assert tried > 20
