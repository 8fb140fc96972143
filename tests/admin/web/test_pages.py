"""Every page: who sees it, what it says to browsers, what it costs, and that nothing typed anywhere becomes markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from admin.permissions import TABLE, Permission, Role
from admin.web.page import Page
from admin.web.pages import PAGES
from ledger.ids import PLATFORM_PROJECT_ID
from tests.admin.api.conftest import World
from tests.admin.web.conftest import Enter
from tests.admin.web.person import Person, forms_in

ACTS = {"/dashboard/keys/{id}/rotate": Permission.ADMIN_KEYS_WRITE}
"""What the form takes for the object that is there, where that is more than the page says: its key administers."""
PAID = [page for page in PAGES if not page.is_open]


async def paths(world: World, page: Page) -> str:
    """A page's path with the id of something that is there in project Shop, test mode."""
    if "{id}" not in page.path:
        return page.path
    table = page.path.split("/")[2]
    if table == "team":
        found = await world.pg.fetchval("SELECT account_id FROM members WHERE project_id = $1", world.shop_id)
    elif table == "webhooks":
        found = await endpoint_of(world, world.shop_id)
    elif table in ("routes", "upstreams"):
        found = await world.pg.fetchval(f"SELECT id FROM {table} WHERE project_id = $1", world.shop_id)
    else:
        found = await world.pg.fetchval(
            f"SELECT id FROM {table} WHERE project_id = $1 AND mode = 'test'", world.shop_id
        )
    return page.path.replace("{id}", found)


async def endpoint_of(world: World, project_id: str) -> str:
    """A webhook endpoint of a project, made if need be; its secret opens with no key."""
    await world.pg.execute(
        "INSERT INTO webhook_endpoints (id, project_id, mode, url, secret) VALUES ($1, $2, 'test', 'https://h.example', '')"
        " ON CONFLICT DO NOTHING",
        f"whk_{project_id.partition('_')[2]}",
        project_id,
    )
    return f"whk_{project_id.partition('_')[2]}"


async def foreign_path(world: World, page: Page) -> str:
    table = page.path.split("/")[2]
    if table == "team":
        return page.path.replace("{id}", "acc_0")
    if table == "webhooks":
        return page.path.replace("{id}", await endpoint_of(world, world.rival_id))
    return page.path.replace(
        "{id}", await world.pg.fetchval(f"SELECT id FROM {table} WHERE project_id = $1", world.rival_id)
    )


@pytest.mark.parametrize("role", list(Role))
async def test_every_page_asks_the_table(world: World, enter: Enter, role: Role) -> None:
    person = await enter(f"{role}@example.com", role)
    for page in PAID:
        await world.pg.execute("UPDATE sessions SET mode = 'test'")  # promoting turns to live
        answer = await person.open(await paths(world, page))
        if page.for_operator:
            assert answer.status == 404, page.path
        elif page.needs is not None and page.needs not in TABLE[role]:
            assert answer.status == 403, page.path
        else:
            assert answer.status == 200, (page.path, answer.text[:2000])
        if page.act is not None and (needs := ACTS.get(page.path, page.act_needs or page.needs)) is not None:
            fields = [("csrf", person.browser.csrf), ("in", f"{world.shop_id}.test")]
            acted = await person.post(await paths(world, page), fields, follow=False)
            if page.for_operator:
                assert acted.status == 404, page.path
            elif needs not in TABLE[role]:
                assert acted.status == 403, page.path
            else:
                assert acted.status in (200, 303, 409, 422), (page.path, acted.text[-2000:])


async def test_every_page_of_nobody_leads_to_the_login(world: World) -> None:
    from tests.admin.people import Browser

    person = Person(Browser(world.where.url, world.session))
    for page in PAID:
        answer = await person.browser.get(await paths(world, page) if "team" not in page.path else "/dashboard/team")
        if page.path in ("/projects",):
            continue
        assert answer.status == 303, page.path
        assert answer.headers["Location"].startswith("/login")
    assert (await person.browser.get("/dashboard", Accept="text/html")).status == 303


async def test_objects_of_others_are_not_there(world: World, owner: Person) -> None:
    before = {table: await world.pg.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in ("keys", "tiers", "routes")}
    for page in PAID:
        if "{id}" not in page.path:
            continue
        path = await foreign_path(world, page)
        assert (await owner.open(path)).status == 404, path
        if page.act is not None:
            for inside in (world.shop_id, world.rival_id):
                fields = [("csrf", owner.browser.csrf), ("in", f"{inside}.test"), ("do", "save")]
                assert (await owner.post(path, fields, follow=False)).status == 404, path
    for table, rows in before.items():
        assert await world.pg.fetch(f"SELECT * FROM {table} ORDER BY 1") == rows


async def test_what_pages_say_to_browsers(world: World, owner: Person) -> None:
    for page in PAGES:
        if page.path == "/dev/mail" or page.for_operator:
            continue
        answer = await owner.open(await paths(world, page))
        policy = answer.headers["Content-Security-Policy"]
        for directive in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
            assert directive in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=|javascript:", answer.text), page.path
        assert "http://" not in re.sub(r"http://(127\.0\.0\.1|rival|www\.w3\.org)", "", answer.text), page.path
        assert answer.text.count("<h1") == 1, page.path
        for form in forms_in(answer.text):
            if form.method == "post":
                assert "csrf" in form.names, (page.path, form.action)


async def test_a_form_without_its_token_does_nothing(world: World, owner: Person) -> None:
    before = await world.pg.fetch("SELECT * FROM audit ORDER BY id")
    for page in PAGES:
        if page.act is None:
            continue
        path = await paths(world, page)
        for fields in ([], [("csrf", "x")], [("csrf", "0" * 64), ("in", f"{world.shop_id}.test")]):
            assert (await owner.post(path, fields, follow=False)).status == 403, path
        good = [("csrf", owner.browser.csrf)]
        for headers in ({"Origin": "https://evil.test"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await owner.post(path, good, follow=False, **headers)).status == 403, path
    assert await world.pg.fetch("SELECT * FROM audit ORDER BY id") == before


async def test_no_redirect_leaves(world: World, owner: Person) -> None:
    await owner.open("/dashboard/projects")
    for evil in ("https://evil.test", "//evil.test", "/\\evil.test", "/dashboard\r\nX: y", "javascript:alert(1)", "x"):
        fields = [("csrf", owner.browser.csrf), ("project", world.shop_id), ("back", evil)]
        answer = await owner.post("/dashboard/switch", fields, follow=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/dashboard"), evil


async def test_the_host_field_moves_nothing(world: World, owner: Person) -> None:
    answer = await owner.open("/dashboard/start", Host="evil.test")
    assert "evil.test" not in answer.text
    browser = owner.browser
    await browser.post("/auth/magic-link", {"email": "x@example.com"}, Host="evil.test")
    rows = await world.pg.fetch("SELECT payload::text FROM outbox")
    assert "evil" not in str(rows)


class Counted(asyncpg.Connection):
    """Counts what is asked of PostgreSQL."""


@pytest.mark.parametrize("page", [page for page in PAID if page.needs], ids=lambda page: page.path)
async def test_a_page_asks_few_questions(
    world: World, enter: Enter, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many with ten of everything as with one, and never more than 14."""
    owner = await enter("owner@example.com", project_id=PLATFORM_PROJECT_ID if page.for_operator else None)
    path = await paths(world, page)
    asked: list[str] = []
    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        original = getattr(asyncpg.Connection, name)

        async def counting(self: Any, query: str, *args: Any, _original: Any = original, **more: Any) -> Any:
            asked.append(query)
            return await _original(self, query, *args, **more)

        monkeypatch.setattr(asyncpg.Connection, name, counting)

    async def count() -> int:
        asked.clear()
        assert (await owner.open(path)).status == 200
        return len(asked)

    few = await count()
    for n in range(10):
        await world.test.post("/api/v1/keys", {"name": f"k{n}"})
        await world.test.post("/api/v1/tiers", {"name": f"t{n}"})
        await world.test.post("/api/v1/customers", {"external_id": f"c{n}", "tier": "pro"})
        await world.test.post("/api/v1/keys", {"name": f"k{n}", "kind": "ck", "customer": f"c{n}"})
        await world.test.post("/api/v1/webhooks", {"url": f"https://hooks.example/{n}"})
        await world.platform.post("/api/v1/projects", {"name": f"p{n}"})
        await world.test.post("/api/v1/upstreams", {"name": f"u{n}", "targets": ["http://127.0.0.1:1"]})
        await world.test.post("/api/v1/routes", {"name": f"r{n}", "path": f"/r{n}", "upstream": f"u{n}"})
    many = await count()
    assert many <= few <= 14, asked


async def test_static_files_are_named_by_their_content(world: World, owner: Person) -> None:
    html = (await owner.open("/dashboard")).text
    for url in re.findall(r'"(/static/[^"]+)"', html):
        answer = await owner.browser.get(url)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert (await owner.browser.get("/static/app.000000000000.css")).status == 404
    assert (await owner.browser.get("/static/..%2fapp.css")).status == 404


async def test_https_makes_cookies_secure() -> None:
    from admin.site import Site

    site = Site("https://gate.example", False, False)
    assert (site.is_secure, site.session_cookie) == (True, "__Host-tollgate_session")


def test_the_templates_hold_no_markup_from_outside() -> None:
    for template in (Path(__file__).parents[3] / "admin" / "web" / "templates").glob("*.html"):
        text = template.read_text()
        assert "|safe" not in text, template
        assert "autoescape" not in text, template


async def test_a_second_tab_in_another_project_changes_nothing_by_accident(world: World, enter: Enter) -> None:
    from admin.accounts.members import put_member

    person = await enter("two@example.com")
    await put_member(world.pg, world.rival_id, person.account_id, Role.OWNER)
    await person.open("/dashboard/keys/new")
    form = person.form()
    await person.post(
        "/dashboard/switch", [("csrf", person.browser.csrf), ("project", world.rival_id), ("mode", "live")]
    )
    fields = [(n, v) for n, v in form.fields if n != "name"] + [("name", "for shop")]
    assert (await person.post("/dashboard/keys/new", fields)).status == 200
    row = await world.pg.fetchrow("SELECT project_id, mode FROM keys WHERE name = 'for shop'")
    assert (row["project_id"], row["mode"]) == (world.shop_id, "test")


async def test_json_stays_json_for_programs(world: World, owner: Person) -> None:
    answer = await owner.browser.get("/projects", Accept="application/json")
    assert json.loads(answer.text)["data"][0]["name"] == "Shop"
    assert Permission.KEYS_WRITE in answer.json["data"][0]["permissions"]


BIG = r"keys|customers|usage_\w+|audit|outbox|webhook_deliveries|alerts|sessions|sign_in_attempts|subscriptions|changes"


async def test_every_question_has_an_index(world: World, owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all tables small PostgreSQL reads them whole by choice; told not to, it can only where no index fits."""
    asked: dict[str, tuple[Any, ...]] = {}
    for name in ("fetch", "fetchrow", "fetchval"):
        original = getattr(asyncpg.Connection, name)

        async def noting(self: Any, query: str, *args: Any, _original: Any = original, **more: Any) -> Any:
            asked.setdefault(query, args)
            return await _original(self, query, *args, **more)

        monkeypatch.setattr(asyncpg.Connection, name, noting)
    for page in PAID:
        if not page.for_operator:
            await owner.open(await paths(world, page))
    await owner.open("/dashboard/customers?q=ad")
    monkeypatch.undo()
    assert len(asked) > 30
    await world.pg.execute("SET enable_seqscan = off")
    for query, args in asked.items():
        if "EXPLAIN" not in query and query.lstrip("(").split(None, 1)[0] in ("SELECT", "WITH", "--"):
            plan = "\n".join(row[0] for row in await world.pg.fetch(f"EXPLAIN {query}", *args))
            assert not re.search(rf"Seq Scan on ({BIG})\b", plan), f"{query}\n{plan}"
