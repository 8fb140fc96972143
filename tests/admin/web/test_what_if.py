"""A month under another tier, as the page shows it and as the API says it."""

from __future__ import annotations

from typing import Any

from tests.admin.api.conftest import World
from tests.admin.api.test_usage import PERIOD, used
from tests.admin.web.person import Person

__all__ = ["used"]


async def test_the_page_says_what_the_api_says(world: World, owner: Person, used: dict[str, Any]) -> None:
    soft = {"requests": {"limit": 1, "hard": False, "overage_price": "150"}}
    made = await world.test.post("/api/v1/tiers", {"name": "dear", "price_minor": 1000, "quotas": soft})
    told = (await world.test.post("/api/v1/usage/what-if", {"tier": "dear", "period": PERIOD})).json
    assert told["whatIf"] == 1000 + 2 * 150
    page = await owner.open(f"/dashboard/usage/what-if?period={PERIOD}&tier={made.json['id']}")
    assert page.status == 200
    assert "$13.00" in page.text
    assert 'href="/dashboard/customers/' + used["ada"] in page.text
    assert "1 customer with usage" in page.text


async def test_it_asks_for_a_tier_of_this_half(world: World, owner: Person) -> None:
    live = (await world.live.get("/api/v1/tiers")).json["data"][0]["id"]
    rival = (await world.rival.get("/api/v1/tiers")).json["data"][0]["id"]
    for tier in ("", "x", live, rival):
        page = await owner.open(f"/dashboard/usage/what-if?tier={tier}&period=nonsense")
        assert (page.status, "Each customer" in page.text) == (200, True), tier
    assert (
        "Nobody used anything"
        in (
            await owner.open(
                f"/dashboard/usage/what-if?tier={(await world.test.get('/api/v1/tiers')).json['data'][0]['id']}"
            )
        ).text
    )
