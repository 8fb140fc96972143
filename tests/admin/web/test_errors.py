"""What goes wrong is a page for people and a problem for programs, and neither tells its inside."""

from __future__ import annotations

import json
from typing import Any

import pytest

from admin.accounts import sessions
from tests.admin.api.conftest import World
from tests.admin.people import Browser
from tests.admin.web.person import Person

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


def is_house_page(text: str) -> bool:
    return text.startswith("<!doctype html>") and "/static/app." in text and text.count("<h1") == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nothing", 404, "There is nothing here"),
        ("GET", "/dashboard/nothing", 404, "There is nothing here"),
        ("GET", "/dashboard/keys/key_0/revoke", 404, "There is no key"),
        ("GET", "/dashboard/keys/NOT-AN-ID/revoke", 404, "There is nothing here"),
        ("POST", "/dashboard/audit", 405, "That cannot be done here"),
        ("DELETE", "/dashboard", 405, "That cannot be done here"),
        ("GET", "/operator", 404, "Not found"),
        ("GET", "/dashboard/live/nothing", 404, "Not found"),
        ("GET", "/static/nothing.css", 404, "There is nothing here"),
    ],
)
async def test_people_see_a_page(world: World, owner: Person, method: str, path: str, status: int, words: str) -> None:
    body = None if method == "GET" else f"csrf={owner.browser.csrf}"
    kind = {} if body is None else {"Content_Type": "application/x-www-form-urlencoded"}
    answer = await owner.browser(method, path, body, Accept=HTML, **kind)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert is_house_page(answer.text)
    assert words in answer.text
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
async def test_programs_see_a_problem(world: World, accept: str) -> None:
    answer = await Browser(world.where.url, world.session).get("/nothing", Accept=accept)
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    keyed = await world.test.get("/nothing", Accept=HTML)
    assert (keyed.status, keyed.code) == (404, "not_found")


async def test_a_link_to_the_api_of_who_is_signed_out_leads_to_the_login(world: World) -> None:
    """The CSV of the usage page, opened after the session ended."""
    browser = Browser(world.where.url, world.session, {"tollgate_session": "ended"})
    answer = await browser.get("/api/v1/usage/export", Accept=HTML)
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert (await browser.get("/api/v1/usage/export")).code == "not_signed_in"


async def test_what_nobody_foresaw_has_an_id_and_no_inside(
    world: World, owner: Person, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(sessions, "find", broken)
    for path in ("/dashboard", "/api/v1/keys"):
        sent = {"Accept": HTML, "Cookie": "tollgate_session=x"}
        async with world.session.get(world.where.url + path, headers=sent, allow_redirects=False) as answer:
            text = await answer.text()
            assert (answer.status, is_house_page(text), "secret inside" in text) == (500, True, False), path
            assert answer.headers["X-Request-Id"] in text
    sent = {"Accept": "application/json", "Cookie": "tollgate_session=x"}
    async with world.session.get(world.where.url + "/api/v1/keys", headers=sent) as answer:
        problem = json.loads(await answer.text())
        assert (answer.status, problem["code"], "secret" in str(problem)) == (500, "internal", False)
    assert "secret inside" in caplog.text


async def test_a_link_that_is_over_says_what_to_do(world: World) -> None:
    person = Person(Browser(world.where.url, world.session))
    await person.open("/auth/verify?token=over")
    answer = await person.send("/auth/verify")
    assert (answer.status, is_house_page(answer.text)) == (401, True)
    assert 'href="/login"' in answer.text
