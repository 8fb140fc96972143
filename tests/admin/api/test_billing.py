"""/api/v1/billing: what is told to Stripe, set up with a secret key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.billing import billed
from ledger.reconcile.run import month_of, reconcile
from tests.admin.api.conftest import World


async def test_from_nothing_to_billed(world: World) -> None:
    assert (await world.test.get("/api/v1/billing")).json["is_connected"] is False
    await billed.connect_stripe(world.pg, world.shop_id, "test", "acct_1")  # as `tollgate billing connect` does
    assert (await world.test.get("/api/v1/billing")).json["account"] == "acct_1"
    since = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    answer = await world.test.post("/api/v1/billing/meters", {"meter": "requests", "event_name": "api", "since": since})
    assert (answer.status, answer.json["event_name"]) == (201, "api")
    linked = await world.test.post("/api/v1/billing/customers", {"customer": "ada", "stripe_customer": "cus_S1"})
    assert linked.json["stripe_customer"] == "cus_S1"
    until = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    assert (await world.test.post("/api/v1/billing/meters/stop", {"meter": "requests", "until": until})).status == 200

    status = (await world.test.get("/api/v1/billing")).json
    assert [(m["meter"], m["event_name"], m["until"] is None) for m in status["meters"]] == [("requests", "api", False)]
    assert (await world.live.get("/api/v1/billing")).json["meters"] == []
    assert (await world.test.delete("/api/v1/billing/account")).status == 204
    assert (await world.test.get("/api/v1/billing")).json["is_connected"] is False
    nouns = await world.pg.fetch("SELECT DISTINCT noun FROM audit WHERE actor LIKE 'key:%' AND noun LIKE '%e%'")
    assert {row["noun"] for row in nouns} >= {"stripe_account", "billed_meter", "stripe_customer"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("meters", {}, 422),
        ("meters", {"meter": "No Meter"}, 422),
        ("meters", {"meter": "a", "event_name": ""}, 422),
        ("meters", {"meter": "a", "since": "yesterday"}, 422),
        ("meters", {"meter": "a", "since": 7}, 422),
        ("meters", {"meter": "a", "since": "2020-01-01T00:00:00"}, 422),
        ("meters", {"meter": "a", "since": "2020-01-01T00:00:00Z"}, 422),
        ("meters", {"meter": "a", "extra": 1}, 422),
        ("meters/stop", {"meter": "a", "until": "2999-01-01T00:00:00Z"}, 422),
        ("meters/stop", {"meter": "a"}, 422),
        ("meters/stop", {"until": "2999-01-01T00:00:00Z"}, 422),
        ("customers", {"customer": "ada"}, 422),
        ("customers", {"customer": "ada", "stripe_customer": "nonsense"}, 422),
        ("customers", {"customer": "nobody", "stripe_customer": "cus_S1"}, 404),
    ],
)
async def test_what_cannot_be(world: World, path: str, body: Any, status: int) -> None:
    assert (await world.test.post(f"/api/v1/billing/{path}", body)).status == status


async def test_an_account_is_the_operators_to_choose(world: World) -> None:
    """A project that could name any account would send its usage to somebody else's."""
    for account in ("acct_1", None):
        assert (await world.test("PUT", "/api/v1/billing/account", {"account": account})).status == 403
    assert (await world.test.get("/api/v1/billing")).json["is_connected"] is False
    changed = await world.platform("PUT", "/api/v1/billing/account", {"account": "acct_1"})
    assert changed.json["account"] == "acct_1"
    assert (await world.platform("PUT", "/api/v1/billing/account", {})).json["account"] == "platform"


@pytest.mark.parametrize("account", ["nonsense", 7, ["acct_1"]])
async def test_an_account_that_is_none(world: World, account: Any) -> None:
    assert (await world.platform("PUT", "/api/v1/billing/account", {"account": account})).status == 422
    assert (await world.platform.get("/api/v1/billing")).json["is_connected"] is False


async def test_reports_show_ones_own_figures_only(world: World) -> None:
    now = datetime.now(UTC)
    for project in (world.shop_id, world.rival_id):
        await world.pg.execute(
            "INSERT INTO usage_daily VALUES ($1, 'test', $2, 'c', '', '', 'requests', 5, 5, 0)", project, now.date()
        )
    await reconcile(world.pg, *month_of(None, now))
    (report,) = (await world.test.get("/api/v1/billing/reconciliations")).json["data"]
    assert [one["project_id"] for one in report["figures"]] == [world.shop_id]
    assert report["agrees"] is False
