"""Signing in over HTTP: links, limits, cookies, CSRF, sessions, and what a session may do with the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from admin.accounts.members import put_member
from admin.permissions import TABLE, Permission, Role
from tests.admin.api.conftest import World
from tests.admin.people import Browser, post_mail, signed_in, token_in

ADA = "ada@example.com"
SignIn = Callable[[str], Awaitable[Browser]]


@pytest.fixture
def sign_in(world: World) -> SignIn:
    async def enter(email: str) -> Browser:
        await world.pg.execute("DELETE FROM sign_in_attempts")  # all tests come from one address
        return await signed_in(world.pg, world.where.url, world.session, email)

    return enter


def stranger(world: World) -> Browser:
    return Browser(world.where.url, world.session)


async def as_role(world: World, sign_in: SignIn, role: Role, project_id: str) -> Browser:
    """Somebody with this role in a project."""
    browser = await sign_in(f"{role}@example.com")
    account = (await browser.get("/auth/me")).json["account"]["id"]
    await put_member(world.pg, project_id, account, role)
    return browser


async def test_a_stranger_signs_in(world: World) -> None:
    browser = stranger(world)
    asked = await browser.post("/auth/magic-link", {"email": "Ada@Example.com"})
    assert (asked.status, "on its way" in asked.json["message"]) == (202, True)
    assert (await browser.get("/auth/me")).code == "not_signed_in"
    (mail,) = await post_mail(world.pg, "https://gate.example")
    assert (mail["recipient"], mail["subject"]) == (ADA, "Sign in to Tollgate")
    assert "https://gate.example/auth/verify?token=" in mail["body"]
    answer = await browser.get(f"/auth/verify?token={token_in(mail)}")
    cookie = answer.headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=2592000"):
        assert attribute in cookie
    me = (await browser.get("/auth/me")).json
    assert (me["account"]["email"], me["projects"], me["isOperator"]) == (ADA, [], False)


async def test_a_link_works_once_and_ends_the_others(world: World) -> None:
    browser = stranger(world)
    for _ in range(2):
        await browser.post("/auth/magic-link", {"email": ADA})
    first, second = map(token_in, await post_mail(world.pg))
    assert (await browser.post("/auth/verify", {"token": second})).status == 200
    for token in (second, first, "nonsense", "é" * 20, "x" * 5000):
        answer = await stranger(world).post("/auth/verify", {"token": token})
        assert (answer.status, answer.code) == (401, "link_invalid"), token


async def test_of_two_at_the_same_moment_one_signs_in(world: World) -> None:
    browser = stranger(world)
    await browser.post("/auth/magic-link", {"email": ADA})
    token = token_in((await post_mail(world.pg))[0])
    answers = await asyncio.gather(*(stranger(world).post("/auth/verify", {"token": token}) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401, 401, 401]


async def test_a_link_ends_after_fifteen_minutes(world: World) -> None:
    await stranger(world).post("/auth/magic-link", {"email": ADA})
    token = token_in((await post_mail(world.pg))[0])
    left = await world.pg.fetchval("SELECT extract(epoch FROM expires_at - now()) FROM magic_links")
    assert 880 < left <= 900
    await world.pg.execute("UPDATE magic_links SET expires_at = now()")
    assert (await stranger(world).get(f"/auth/verify?token={token}")).code == "link_invalid"


async def test_no_token_is_at_rest(world: World) -> None:
    browser = await signed_in(world.pg, world.where.url, world.session, ADA)
    token = token_in((await post_mail(world.pg))[-1])
    (cookie,) = browser.cookies.values()
    for table in ("outbox", "magic_links", "sessions", "accounts", "audit"):
        rows = str(await world.pg.fetch(f"SELECT {table}::text FROM {table}"))
        assert token not in rows
        assert cookie not in rows


async def test_five_links_in_fifteen_minutes_for_an_address(world: World) -> None:
    browser = stranger(world)
    statuses = [(await browser.post("/auth/magic-link", {"email": ADA})).status for _ in range(6)]
    assert statuses == [202] * 5 + [429]
    refused = await browser.post("/auth/magic-link", {"email": "other@example.com"})  # from the same place
    assert (refused.code, 880 < int(refused.headers["Retry-After"]) <= 901) == ("too_many_tries", True)
    await world.pg.execute("UPDATE sign_in_attempts SET address = '192.0.2.1'")
    assert (await browser.post("/auth/magic-link", {"email": ADA.upper()})).status == 429  # for the same address
    assert (await browser.post("/auth/magic-link", {"email": "other@example.com"})).status == 202
    await world.pg.execute("UPDATE sign_in_attempts SET at = at - interval '15 minutes'")
    assert (await browser.post("/auth/magic-link", {"email": ADA})).status == 202


async def test_limits_hold_for_a_burst(world: World) -> None:
    asked = await asyncio.gather(*(stranger(world).post("/auth/magic-link", {"email": ADA}) for _ in range(12)))
    assert sorted(answer.status for answer in asked) == [202] * 5 + [429] * 7


async def test_tokens_cannot_be_tried_without_end(world: World) -> None:
    statuses = [(await stranger(world).post("/auth/verify", {"token": str(n)})).status for n in range(22)]
    assert statuses == [401] * 20 + [429] * 2


async def test_known_and_unknown_addresses_are_told_apart_by_nothing(world: World, sign_in: SignIn) -> None:
    await sign_in(ADA)
    await world.pg.execute("DELETE FROM sign_in_attempts")
    known = await stranger(world).post("/auth/magic-link", {"email": ADA})
    unknown = await stranger(world).post("/auth/magic-link", {"email": "nobody@example.com"})
    assert (known.status, known.text) == (unknown.status, unknown.text)
    assert known.headers.keys() == unknown.headers.keys()


@pytest.mark.parametrize(
    "email", ["", "x", "a b@c", "a@b\r\nBcc: eve@example.com", "a@" + "b" * 300, "a@b,c@d", None, 7]
)
async def test_what_is_no_address_is_told(world: World, email: object) -> None:
    answer = await stranger(world).post("/auth/magic-link", {"email": email})
    if email == "a@b,c@d":  # two addresses to a header, one to nobody: given up by the post, and no mail leaves
        assert answer.status in (202, 422)
        return
    assert (answer.status, list(answer.errors)) == (422, ["email"])


async def test_signing_in_replaces_the_session_a_browser_had(world: World, sign_in: SignIn) -> None:
    """Session fixation: a cookie that an attacker planted is never the one that is signed in."""
    await stranger(world).post("/auth/magic-link", {"email": ADA})
    planted = stranger(world)
    planted.cookies["tollgate_session"] = "planted"
    await planted.post("/auth/verify", {"token": token_in((await post_mail(world.pg))[-1])})
    assert planted.cookies["tollgate_session"] != "planted"
    first = planted.cookies["tollgate_session"]
    await planted.post("/auth/magic-link", {"email": "eve@example.com"})
    await planted.post("/auth/verify", {"token": token_in((await post_mail(world.pg))[-1])})
    old = stranger(world)
    old.cookies["tollgate_session"] = first
    assert (await old.get("/auth/me")).status == 401


async def test_changes_need_the_csrf_token(world: World, sign_in: SignIn) -> None:
    browser = await sign_in(ADA)
    good, browser.csrf = browser.csrf, ""
    assert (await browser.post("/projects", {"name": "Mine"})).code == "csrf"
    for wrong in ("x", good[:-1], good.upper(), "é"):
        refused = await browser.post("/projects", {"name": "Mine"}, X_CSRF_Token=wrong)
        assert refused.code == "csrf"
    browser.csrf = good
    for headers in ({"Origin": "https://evil.test"}, {"Sec_Fetch_Site": "cross-site"}, {"Origin": "null"}):
        assert (await browser.post("/projects", {"name": "Mine"}, **headers)).code == "csrf"
    assert (await browser.post("/projects", {"name": "Mine"})).status == 201
    assert (await browser.post("/api/v1/keys", {"name": "x"}, X_CSRF_Token="")).code == "csrf"
    assert (await browser.post("/auth/logout", X_CSRF_Token="")).code == "csrf"
    assert (await stranger(world).post("/auth/verify", {"token": "x"}, Origin="https://evil.test")).code == "csrf"


async def test_sessions_are_listed_and_ended(world: World, sign_in: SignIn) -> None:
    here, there = await sign_in(ADA), await sign_in(ADA)
    eve = await sign_in("eve@example.com")
    listed = (await here.get("/auth/sessions", User_Agent="x")).json["data"]
    assert sorted(session["isThis"] for session in listed) == [False, True]
    other = next(session["id"] for session in listed if not session["isThis"])
    assert (await eve("DELETE", f"/auth/sessions/{other}")).status == 404
    assert (await here("DELETE", f"/auth/sessions/{other}")).status == 204
    assert (await there.get("/auth/me")).status == 401
    assert (await here.post("/auth/logout")).status == 204
    assert "tollgate_session" not in here.cookies
    assert len(await world.pg.fetch("SELECT FROM sessions")) == 1


async def test_a_session_ends_after_thirty_days(world: World, sign_in: SignIn) -> None:
    browser = await sign_in(ADA)
    left = await world.pg.fetchval("SELECT expires_at - now() > interval '29.99 days' FROM sessions")
    assert left
    await world.pg.execute("UPDATE sessions SET expires_at = now()")
    assert (await browser.get("/auth/me")).status == 401
    assert (await browser.get("/api/v1/keys")).code == "not_signed_in"


async def test_a_session_uses_the_api_in_its_project(world: World, sign_in: SignIn) -> None:
    browser = await sign_in(ADA)
    assert (await browser.get("/api/v1/keys")).errors.keys() == {"Tollgate-Project"}
    made = await browser.post("/projects", {"name": "Mine"})
    assert (made.status, made.json["role"]) == (201, "owner")
    key = await browser.post("/api/v1/keys", {"name": "first"})
    assert (key.status, key.json["mode"]) == (201, "test")
    live = await browser.post("/api/v1/keys", {"name": "first"}, Tollgate_Mode="live")
    assert live.json["key"].startswith("sk_live_")
    rows = await world.pg.fetch("SELECT actor FROM audit WHERE noun = 'key' AND project_id = $1", made.json["id"])
    assert {row["actor"].partition(":")[0] for row in rows} == {"account"}
    for foreign in (world.shop_id, "prj_platform", "prj_none", "'; --", "é"):
        assert (await browser.get("/api/v1/keys", Tollgate_Project=foreign)).status == 404
    assert (await browser.get("/api/v1/keys", Tollgate_Mode="x")).errors.keys() == {"Tollgate-Mode"}
    assert (await browser.get("/api/v1/projects")).code == "forbidden"  # the platform's


async def test_a_key_counts_before_a_cookie(world: World, sign_in: SignIn) -> None:
    browser = await sign_in(ADA)
    browser.csrf = ""
    answer = await browser.post("/api/v1/keys", {"name": "x"}, Authorization=f"Bearer {world.test.key}")
    assert answer.status == 201
    assert (await browser.get("/api/v1/keys", Authorization="Bearer nonsense")).code == "bad_credential"


@pytest.mark.parametrize("role", list(Role))
async def test_every_endpoint_asks_the_table(world: World, sign_in: SignIn, role: Role) -> None:
    """Every endpoint × this role, in its own project and in another's."""
    from admin.app import ENDPOINTS

    browser = await as_role(world, sign_in, role, world.shop_id)
    for endpoint in ENDPOINTS:
        path = (
            endpoint.path.replace("{id}", "tier_0")
            .replace("{customer}", "cus_0")
            .replace("{event}", "0" * 32)
            .replace("{delivery}", "dlv_0")
        )
        own = await browser(endpoint.method, path, {} if endpoint.writes else None, Tollgate_Project=world.shop_id)
        is_allowed = endpoint.needs in TABLE[role] and not endpoint.platform_only
        assert (own.status == 403) is not is_allowed, (endpoint, own.text)
        foreign = await browser(endpoint.method, path, {} if endpoint.writes else None, Tollgate_Project=world.rival_id)
        assert (foreign.status, foreign.code) == (404, "not_found"), endpoint


async def test_the_operator_sees_all_projects(world: World, sign_in: SignIn) -> None:
    browser = await as_role(world, sign_in, Role.OWNER, "prj_platform")
    listed = (await browser.get("/api/v1/projects", Tollgate_Project="prj_platform")).json["data"]
    assert {project["name"] for project in listed} >= {"Shop", "Rival", "Platform"}
    assert (await browser.get("/api/v1/keys", Tollgate_Project=world.shop_id)).status == 404
    assert Permission.PLATFORM in TABLE[Role.ADMIN]


async def test_mail_that_the_transport_refuses_is_tried_again(pg: asyncpg.Connection, world: World) -> None:
    from ledger.mail.letters import Message
    from ledger.mail.post import deliver_due
    from ledger.mail.transports import NotTaken

    taken: list[Message] = []
    failures = [NotTaken("busy"), NotTaken("busy"), None]

    async def transport(_: asyncpg.Connection, message: Message) -> None:
        if (failure := failures.pop(0)) is not None:
            raise failure
        taken.append(message)

    await stranger(world).post("/auth/magic-link", {"email": ADA})
    for _ in range(3):
        assert await deliver_due(pg, transport, "http://x") == 1
        assert await deliver_due(pg, transport, "http://x") == 0
        await pg.execute("UPDATE outbox SET available_at = now()")
    assert [message.to for message in taken] == [ADA]
    assert await deliver_due(pg, transport, "http://x") == 0
