"""The life of a request: what is read, what is refused before a handler sees it."""

from __future__ import annotations

from typing import Any

from tests.admin.api.conftest import World

TIERS = "/api/v1/tiers"
JSON = "application/json"


REFUSED: list[tuple[Any, str, int, str]] = [
    ("{}", "text/plain", 415, "Send the body as application/json."),
    ("name=x", "application/x-www-form-urlencoded", 415, "Send the body as application/json."),
    ("", JSON, 400, "The body is not JSON"),
    ("{", JSON, 400, "The body is not JSON"),
    ('{"a": NaN}', JSON, 400, "The body is not JSON"),
    (b'{"name": "\xff"}', JSON, 400, "The body is not JSON"),
    ('{"name": "\\ud800"}', JSON, 400, "The body is not JSON"),
    ("[" * 50_000, JSON, 400, "The body is not JSON"),
    ("[]", JSON, 422, "The body must be a JSON object."),
    ("null", JSON, 422, "The body must be a JSON object."),
    ('{"name": "' + "x" * 70_000 + '"}', JSON, 413, "The request body is larger than allowed here."),
]


async def test_bodies_that_are_refused(world: World) -> None:
    for body, content_type, status, detail in REFUSED:
        answer = await world.test.post(TIERS, body, Content_Type=content_type)
        assert answer.status == status, body
        assert answer.json["detail"].startswith(detail)


async def test_a_charset_is_fine(world: World) -> None:
    answer = await world.test.post(TIERS, '{"name": "gold"}', Content_Type="application/json; charset=utf-8")
    assert answer.status == 201


async def test_query_parameters_that_are_refused(world: World) -> None:
    for query in ("limt=5", "limit=5&limit=6", "dry_run=true"):
        answer = await world.test.get(f"{TIERS}?{query}")
        assert (answer.status, answer.code) == (422, "invalid")


async def test_methods_and_paths_that_are_not_there(world: World) -> None:
    answer = await world.test("PUT", TIERS, {})
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}
    assert (await world.test.get("/api/v1/nothing")).code == "not_found"
    assert (await world.test.get("/nothing")).code == "not_found"


async def test_head_answers_as_get_without_a_body(world: World) -> None:
    answer = await world.test("HEAD", TIERS)
    assert (answer.status, answer.text) == (200, "")
    assert int(answer.headers["Content-Length"]) > 100


async def test_a_request_id_is_kept_if_it_is_one(world: World) -> None:
    assert (await world.test.get(TIERS, X_Request_Id="abc-1.2_3")).headers["X-Request-Id"] == "abc-1.2_3"
    for wrong in ("a b", "x" * 65, "é"):
        made = (await world.test.get(TIERS, X_Request_Id=wrong)).headers["X-Request-Id"]
        assert len(made) == 32


async def test_answers_are_never_cached(world: World) -> None:
    for answer in (await world.test.get(TIERS), await world.client(None).get(TIERS)):
        assert answer.headers["Cache-Control"] == "no-store"


async def test_own_project(world: World) -> None:
    answer = await world.live.get("/api/v1/project")
    assert answer.json.items() >= {"id": world.shop_id, "name": "Shop", "kind": "saas", "mode": "live"}.items()
