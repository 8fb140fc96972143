"""One answer per Idempotency-Key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.admin.api.conftest import World

TIERS = "/api/v1/tiers"
GOLD = {"name": "gold", "price_minor": 5}


async def kept(world: World) -> list[dict[str, Any]]:
    return [dict(row) for row in await world.pg.fetch("SELECT * FROM idempotent_requests")]


async def test_the_same_request_gets_the_same_answer(world: World) -> None:
    first = await world.test.post(TIERS, GOLD, Idempotency_Key="k1")
    again = await world.test.post(TIERS, {"price_minor": 5, "name": "gold"}, Idempotency_Key="k1")
    assert (again.status, again.json, again.headers["Location"]) == (201, first.json, first.headers["Location"])
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert await world.pg.fetchval("SELECT count(*) FROM tiers WHERE name = 'gold'") == 1


async def test_another_body_or_path_is_refused(world: World) -> None:
    await world.test.post(TIERS, GOLD, Idempotency_Key="k1")
    for path, body in ((TIERS, {"name": "silver"}), ("/api/v1/upstreams", GOLD)):
        answer = await world.test.post(path, body, Idempotency_Key="k1")
        assert (answer.status, answer.code) == (422, "idempotency_key_reused")
    assert await world.pg.fetchval("SELECT count(*) FROM tiers WHERE name = 'silver'") == 0


async def test_at_the_same_moment_one_is_made(world: World) -> None:
    answers = await asyncio.gather(*(world.test.post(TIERS, GOLD, Idempotency_Key="k1") for _ in range(8)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1


async def test_what_was_refused_may_be_tried_again(world: World) -> None:
    assert (await world.test.post(TIERS, {"name": "pro"}, Idempotency_Key="k1")).status == 409
    assert (await world.test.post(TIERS, {"name": "Gold"}, Idempotency_Key="k1")).status == 422
    assert await kept(world) == []
    assert (await world.test.post(TIERS, GOLD, Idempotency_Key="k1")).status == 201


@pytest.mark.parametrize("path", ["/api/v1/keys", "/api/keys"])
async def test_a_key_is_shown_once_and_its_text_never_kept(world: World, path: str) -> None:
    made = await world.test.post(path, {"name": "ci"}, Idempotency_Key="k1")
    assert made.status == 201
    again = await world.test.post(path, {"name": "ci"}, Idempotency_Key="k1")
    assert (again.status, again.code) == (409, "key_shown")
    assert made.json["id"] in again.json["detail"]
    assert await world.pg.fetchval("SELECT count(*) FROM keys WHERE name = 'ci'") == 1
    (row,) = await kept(world)
    assert row["body"] is None
    assert made.json["key"] not in str(row)


async def test_a_rotation_is_done_once(world: World) -> None:
    key = (await world.test.post("/api/v1/keys", {"name": "ci"})).json
    path = f"/api/v1/keys/{key['id']}/rotate"
    first = await world.test.post(path, {"graceSeconds": 60}, Idempotency_Key="k1")
    again = await world.test.post(path, {"graceSeconds": 60}, Idempotency_Key="k1")
    assert (first.status, again.status, again.code) == (201, 409, "key_shown")
    assert first.json["id"] in again.json["detail"]


async def test_an_answer_is_kept_for_a_day(world: World) -> None:
    await world.test.post(TIERS, GOLD, Idempotency_Key="k1")
    await world.pg.execute("UPDATE idempotent_requests SET created_at = now() - interval '25 hours'")
    assert (await world.test.post(TIERS, {"name": "silver"}, Idempotency_Key="k1")).status == 201
    assert len(await kept(world)) == 1


async def test_a_key_that_is_none_is_refused(world: World) -> None:
    for key in ("", " ", "a b", "é", "x" * 256):
        answer = await world.test.post(TIERS, GOLD, Idempotency_Key=key)
        assert (answer.status, list(answer.errors)) == (422, ["Idempotency-Key"])
