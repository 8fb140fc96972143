"""/api/v1/usage: figures, trends, breakdowns, the log, receipts, corrections, CSV, what-if; and dead letters."""

from __future__ import annotations

import csv
import io
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from ledger.billing.billed import bill_meter, connect_stripe
from ledger.ids import customer_id_for
from ledger.ingest import Writer
from ledger.metrics import IngestMetrics
from ledger.partitions import ensure_partitions
from tests.admin.api.conftest import World
from tests.ledger.facts import entry, fact

PERIOD = datetime.now(UTC).strftime("%Y-%m")


@pytest.fixture
async def used(world: World, postgres_url: str) -> dict[str, Any]:
    """Ada, on tier pro or what there is, made three requests just now; somebody of Rival one."""
    now = int(time.time() * 1000)
    await ensure_partitions(world.pg, datetime.now(UTC))
    ada = customer_id_for(world.shop_id, "test", "ada")
    keys = await world.pg.fetch("SELECT id FROM keys WHERE project_id = $1 AND kind = 'ck'", world.shop_id)
    shop: dict[str, Any] = {
        "project": world.shop_id,
        "mode": "test",
        "customer": ada,
        "key": keys[0]["id"],
        "route": None,
    }
    made = [fact(now - n, meters={"requests": 1, "tokens": 100}, **shop) for n in range(3)]
    rival = fact(now, meters={"requests": 1}, **(shop | {"project": world.rival_id}))
    async with world.pg.transaction():
        await connect_stripe(world.pg, world.shop_id, "test", None)
        await bill_meter(
            world.pg, world.shop_id, "test", "tokens", "tok", datetime.now(UTC).replace(minute=0, second=0)
        )
    writer = Writer(partial(asyncpg.connect, postgres_url), IngestMetrics(CollectorRegistry()))
    await writer.store([entry(event) for event in [*made, rival]])
    await writer.close()
    return {"ada": ada, "ids": [str(uuid.UUID(event["id"])) for event in made], "rival": rival["id"]}


@pytest.mark.parametrize("path", ["/api/v1/usage", "/api/usage"])
async def test_the_figures_of_a_month(world: World, used: dict[str, Any], path: str) -> None:
    answer = await world.test.get(f"{path}?period={PERIOD}")
    assert answer.status == 200
    assert (answer.json["period"], answer.json["requests"], answer.json["runs"]) == (PERIOD, 3, 0)
    assert answer.json["byMeter"] == {"requests": 3, "tokens": 300}
    assert answer.json["avgDurationMs"] == 1.83
    assert (await world.live.get(path)).json["byMeter"] == {}
    assert (await world.test.get(f"{path}?period=2020-01")).json["requests"] == 0
    assert (await world.test.get(f"{path}?customer=cus_nobody")).json["requests"] == 0


async def test_trends_and_breakdowns(world: World, used: dict[str, Any]) -> None:
    months = (await world.test.get("/api/v1/usage/trends?months=3")).json["months"]
    assert [one["requests"] for one in months] == [0, 0, 3]
    assert months[-1]["period"] == PERIOD
    assert len((await world.test.get("/api/v1/usage/trends")).json["months"]) == 6
    for by, first in (("customer", used["ada"]), ("day", datetime.now(UTC).strftime("%Y-%m-%d")), ("route", None)):
        data = (await world.test.get(f"/api/v1/usage/breakdown?by={by}")).json["data"]
        assert [(part["id"], part["requests"]) for part in data] == [(first, 3)], by
    assert (await world.test.get("/api/v1/usage/breakdown?by=key")).json["data"][0]["name"]


async def test_the_log_of_requests_is_paged_without_gap_or_repeat(world: World, used: dict[str, Any]) -> None:
    seen, cursor = [], ""
    while True:
        page = (await world.test.get(f"/api/v1/usage/events?limit=2{cursor}")).json
        seen += [one["id"] for one in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == used["ids"]
    assert (await world.test.get(f"/api/v1/usage/events?customer={used['ada']}&key=key_none")).json["data"] == []


async def test_a_receipt_shows_the_whole_way(world: World, used: dict[str, Any]) -> None:
    shown = (await world.test.get(f"/api/usage/events/{used['ids'][0]}")).json
    assert shown["admitted"]["customer"] == used["ada"]
    assert (shown["settled"]["outcome"], shown["settled"]["meters"]) == ("completed", {"requests": 1, "tokens": 100})
    assert shown["stored"]["at"]
    assert {(one["span"], one["meter"], one["quantity"]) for one in shown["rolledUp"]} == {
        (span, meter, quantity) for span in ("hour", "day") for meter, quantity in (("requests", 3), ("tokens", 300))
    }
    (billed,) = shown["billed"]
    assert (billed["meter"], billed["slot"]["counted"], billed["slot"]["sealed"], billed["sent"]) == (
        "tokens",
        300,
        0,
        [],
    )
    assert billed["seenByStripe"] is None

    for client in (world.live, world.rival):
        assert (await client.get(f"/api/usage/events/{used['ids'][0]}")).code == "not_found"
    for wrong in ("nonsense", str(uuid.uuid4()), "0" * 32, "f" * 32):
        assert (await world.test.get(f"/api/usage/events/{wrong}")).status == 404


async def test_corrections_by_api_leave_who_and_why(world: World, used: dict[str, Any]) -> None:
    path = f"/api/v1/usage/events/{used['ids'][0]}"
    answer = await world.test.post(f"{path}/adjust", {"meters": {"tokens": 40}, "reason": "counted twice"})
    assert (answer.status, answer.json["effective"]) == (201, {"requests": 1, "tokens": 40})
    assert (await world.test.post(f"{path}/void", {"reason": "test"})).json["effective"] == {"requests": 0, "tokens": 0}
    shown = (await world.test.get(path)).json
    assert [one["kind"] for one in shown["corrections"]] == ["adjusted", "voided"]
    assert shown["corrections"][0]["actor"].startswith("key:")
    assert shown["billed"][0]["slot"]["counted"] == 200
    assert (await world.test.get("/api/v1/usage")).json["byMeter"] == {"requests": 2, "tokens": 200}

    for body, status in (({}, 422), ({"reason": ""}, 422), ({"reason": "x"}, 422), ({"reason": "x", "y": 1}, 422)):
        assert (await world.test.post(f"{path}/void", body)).status == status
    for meters in ({}, {"tokens": -1}, {"tokens": 2**63}, {"other": 1}, "x"):
        assert (await world.test.post(f"{path}/adjust", {"reason": "x", "meters": meters})).status == 422
    assert (await world.rival.post(f"{path}/void", {"reason": "x"})).status == 404


async def test_a_correction_is_made_once_per_idempotency_key(world: World, used: dict[str, Any]) -> None:
    path, body = f"/api/v1/usage/events/{used['ids'][0]}/adjust", {"meters": {"tokens": 40}, "reason": "x"}
    first = await world.test.post(path, body, Idempotency_Key="k1")
    second = await world.test.post(path, body, Idempotency_Key="k1")
    assert first.json == second.json


async def test_csv(world: World, used: dict[str, Any]) -> None:
    await world.pg.execute("UPDATE customers SET external_id = '=cmd()' WHERE id = $1", used["ada"])
    answer = await world.test.get(f"/api/usage/export?period={PERIOD}")
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["meter"], row["quantity"], row["external_id"]) for row in rows] == [
        ("requests", "3", "'=cmd()"),
        ("tokens", "300", "'=cmd()"),
    ]


async def test_what_if(world: World, used: dict[str, Any]) -> None:
    plan = {
        "currency": "eur",
        "base": 100,
        "prices": {"tokens": {"unit": "0.5", "free": 100}, "requests": {"unit": "0.1"}},
    }
    answer = await world.test.post("/api/usage/what-if", {"period": PERIOD, "plan": plan})
    assert (answer.json["whatIf"], answer.json["currency"], answer.json["customers"]) == (200, "eur", 1)
    assert [line["amount"] for line in answer.json["data"][0]["lines"]] == [100, 0, 100]
    tier = await world.pg.fetchval(
        "SELECT name FROM tiers WHERE project_id = $1 AND mode = 'test' LIMIT 1", world.shop_id
    )
    assert (await world.test.post("/api/usage/what-if", {"tier": tier})).json["plan"] == tier


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tier": "none"},
        {"tier": "free", "plan": {}},
        {"plan": "x"},
        {"plan": {"x": 1}},
        {"plan": {"base": -1}},
        {"plan": {"currency": "euro"}},
        {"plan": {"prices": []}},
        {"plan": {"prices": {"A B": {}}}},
        {"plan": {"prices": {"tokens": {"unit": "NaN"}}}},
        {"plan": {}, "period": "soon"},
        {"plan": {}, "period": 7},
        {"plan": {}, "extra": 1},
    ],
)
async def test_what_if_not(world: World, body: Any) -> None:
    assert (await world.test.post("/api/v1/usage/what-if", body)).status == 422


@pytest.mark.parametrize(
    "query",
    [
        "?period=2027",
        "?period=2027-13",
        "?period=2027-1",
        "/trends?months=0",
        "/trends?months=37",
        "/trends?months=x",
        "/trends?months=-1",
        "/breakdown?by=colour",
        "/events?limit=0",
        "/events?cursor=x",
        "/events?cursor=YWJj",
        "?nothing=1",
    ],
)
async def test_questions_that_make_no_sense(world: World, query: str) -> None:
    assert (await world.test.get(f"/api/v1/usage{query}")).status == 422


async def test_dead_letters_are_the_platforms(world: World) -> None:
    await world.pg.execute(
        "INSERT INTO dead_letters (stream, entry_id, payload, reason) VALUES ('s', '1-1', 'x', 'not JSON')"
    )
    (letter,) = (await world.platform.get("/api/v1/dead-letters")).json["data"]
    assert letter["reason"] == "not JSON"
    done = await world.platform.post("/api/v1/dead-letters/replay", {"ids": [letter["id"]]})
    assert [one["is_done"] for one in done.json["data"]] == [False]
    assert (await world.test.get("/api/v1/dead-letters")).status == 403
    for body in ({}, {"ids": []}, {"ids": ["x"]}, {"ids": [1]}, {"ids": ["stream-1"], "force": "yes"}, {"ids": "x"}):
        assert (await world.platform.post("/api/v1/dead-letters/replay", body)).status == 422
    assert (await world.platform.get("/api/v1/dead-letters?kind=mail")).status == 422
