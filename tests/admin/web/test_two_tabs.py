"""Two people with one form: whoever saves second is told that it was changed, and nothing is lost by accident."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admin.api.conftest import World
from tests.admin.web.conftest import Enter
from tests.admin.web.person import Person


async def of_noun(world: World, noun: str) -> str:
    listed = (await world.test.get(f"/api/v1/{noun}?limit=100")).json["data"]
    return str(listed[0]["id"])


FORMS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("tiers", {"title": "First", "do": "save"}, {"title": "Second", "do": "save"}),
    ("customers", {"name": "First"}, {"name": "Second"}),
    ("routes", {"requests_per_minute": "11"}, {"requests_per_minute": "22"}),
    ("upstreams", {"targets": "http://127.0.0.1:1"}, {"targets": "http://127.0.0.1:2"}),
    ("webhooks", {"url": "https://first.example"}, {"url": "https://second.example"}),
    ("alerts", {"percents": ["50"]}, {"percents": ["90"]}),
]


@pytest.mark.parametrize(("noun", "first", "second"), FORMS, ids=[noun for noun, _, _ in FORMS])
async def test_the_second_is_told(
    world: World, enter: Enter, noun: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    ada, eve = await enter("ada@example.com"), await enter("eve@example.com")
    if noun == "webhooks":
        made = (await world.test.post("/api/v1/webhooks", {"url": "https://hooks.example"})).json["id"]
        path = f"/dashboard/webhooks/{made}/edit"
    else:
        path = f"/dashboard/{noun}" if noun == "alerts" else f"/dashboard/{noun}/{await of_noun(world, noun)}"
    await ada.open(path)
    await eve.open(path)
    assert (await ada.send(path, **first)).status == 200
    changes = await world.pg.fetchval("SELECT count(*) FROM audit")
    refused = await eve.send(path, **second)
    assert (refused.status, "Somebody changed this while you had it open" in refused.text) == (422, True)
    assert await world.pg.fetchval("SELECT count(*) FROM audit") == changes
    assert str(next(iter(second.values()))).strip("[]'") in refused.text  # what was typed is still there
    assert (await eve.send(path, **second)).status == 200  # once more is a choice
    assert await world.pg.fetchval("SELECT count(*) FROM audit") == changes + 1


async def test_the_same_again_is_no_change(world: World, owner: Person) -> None:
    path = f"/dashboard/tiers/{await of_noun(world, 'tiers')}"
    await owner.open(path)
    form = owner.form(path)
    for _ in range(2):
        answer = await owner.post(path, [*form.fields, ("do", "preview")])
        assert (answer.status, "Nothing: it is so already." in answer.text) == (200, True)
