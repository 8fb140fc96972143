"""Receipts by the API after each stage, up to what Stripe has counted; of plain, corrected, orphaned and divided events."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from admin.app import running
from admin.keys import create_key
from config.settings import AdminSettings, Settings
from ledger.corrections import correct
from ledger.ingest import Writer
from ledger.reconcile.run import month_of, reconcile
from ledger.specs import KeySpec
from stripefake.meters import report_errors
from stripefake.world import PLATFORM
from tests.admin.api.conftest import Client
from tests.ledger.billing.conftest import World
from tests.ledger.facts import HOUR_MS, NOW_MS, PROJECT, entry, fact


@pytest.fixture
async def api(world: World, postgres_url: str) -> AsyncIterator[Client]:
    """A live secret key of the project's."""
    spec = KeySpec.model_validate({"name": "reader", "mode": "live"})
    key = (await create_key(world.pg, PROJECT, spec, actor="test")).key.text
    settings = Settings(postgres_url=SecretStr(postgres_url), admin=AdminSettings(port=0, metrics_port=0))
    async with running(settings) as admin, aiohttp.ClientSession() as session:
        yield Client(session, admin.url, key)


async def receipt(api: Client, event: dict[str, Any]) -> dict[str, Any]:
    answer = await api.get(f"/api/usage/events/{event['id']}")
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


async def look_at_stripe(world: World) -> None:
    """The nightly comparison."""
    start, end = month_of("2026-03", world.now)
    await reconcile(world.pg, start, end, door=world.door, now=world.now)


async def amend(world: World, event: dict[str, Any], wanted: dict[str, int] | None) -> None:
    async with world.pg.transaction():
        event_id = uuid.UUID(hex=event["id"])
        await correct(world.pg, PROJECT, "live", event_id, wanted, actor="account:ada", reason="a mistake")


def told(shown: dict[str, Any]) -> list[tuple[str, int]]:
    (billed,) = shown["billed"]
    return [(one["state"], one["value"]) for one in billed["sent"]]


async def test_an_event_is_followed_up_to_stripe(world: World, writer: Writer, api: Client) -> None:
    event = fact(meters={"requests": 5, "bytes_out": 9})
    assert (await api.get(f"/api/usage/events/{event['id']}")).status == 404  # it is still in Redis

    await writer.store([entry(event)])
    shown = await receipt(api, event)
    assert shown["admitted"]["customer"] == "cus_ada"
    assert (shown["settled"]["outcome"], shown["settled"]["meters"]) == ("completed", {"requests": 5, "bytes_out": 9})
    assert {(one["span"], one["meter"], one["quantity"]) for one in shown["rolledUp"]} >= {
        ("hour", "requests", 5),
        ("day", "requests", 5),
    }
    (billed,) = shown["billed"]
    assert (billed["meter"], billed["slot"]["counted"], billed["slot"]["sealed"]) == ("requests", 5, 0)
    assert (billed["sent"], billed["seenByStripe"]) == ([], None)

    await world.seal()
    shown = await receipt(api, event)
    assert shown["billed"][0]["slot"]["sealed"] == 5
    assert told(shown) == [("due", 5)]

    world.fault("drop_after", times=1)
    await world.sender().send_due()
    (billed,) = (await receipt(api, event))["billed"]
    assert (billed["sent"][0]["state"], billed["sent"][0]["attempts"]) == ("due", 1)
    assert billed["sent"][0]["lastError"].startswith("unknown")

    await world.send_all()
    (billed,) = (await receipt(api, event))["billed"]
    assert (billed["sent"][0]["state"], billed["sent"][0]["attempts"]) == ("sent", 2)
    assert billed["sent"][0]["sentAt"] is not None
    assert billed["seenByStripe"] is None

    await look_at_stripe(world)
    seen = (await receipt(api, event))["billed"][0]["seenByStripe"]
    assert (seen["hourUnits"], seen["toldUnits"], seen["agrees"]) == (5, 5, True)


async def test_what_was_voided_or_adjusted_says_by_whom_and_what_it_counts(
    world: World, writer: Writer, api: Client
) -> None:
    voided, adjusted = fact(meters={"requests": 5}), fact(NOW_MS - HOUR_MS, meters={"requests": 7})
    await writer.store([entry(voided), entry(adjusted)])
    await world.seal()
    await world.send_all()
    await amend(world, voided, None)
    await amend(world, adjusted, {"requests": 4})
    await amend(world, adjusted, {"requests": 6})

    shown = await receipt(api, voided)
    assert shown["settled"]["meters"] == {"requests": 5}  # as it was
    assert shown["effective"] == {"requests": 0}
    (one,) = shown["corrections"]
    assert (one["kind"], one["actor"], one["reason"], one["meters"]) == (
        "voided",
        "account:ada",
        "a mistake",
        {"requests": -5},
    )
    assert shown["billed"][0]["slot"]["counted"] == 0
    assert told(shown) == [("sent", 5)]
    shown = await receipt(api, adjusted)
    assert shown["effective"] == {"requests": 6}
    assert [one["meters"] for one in shown["corrections"]] == [{"requests": -3}, {"requests": 2}]

    later = fact(NOW_MS + HOUR_MS, meters={"requests": 20})
    world.pass_time(timedelta(hours=3))
    writer._now_ms = lambda: NOW_MS + 2 * HOUR_MS
    await writer.store([entry(later)])
    await world.seal()
    await world.send_all()
    assert told(await receipt(api, voided)) == [("sent", 5), ("netted", 0)]
    assert told(await receipt(api, adjusted)) == [("sent", 7), ("netted", 0)]
    assert told(await receipt(api, later)) == [("sent", 20 - 5 - 1)]
    await look_at_stripe(world)
    for event, units in ((voided, 5), (adjusted, 7), (later, 14)):
        seen = (await receipt(api, event))["billed"][0]["seenByStripe"]
        assert (seen["hourUnits"], seen["agrees"]) == (units, True)


async def test_orphans_and_parts_are_what_they_are(world: World, writer: Writer, api: Client) -> None:
    orphan = fact(outcome="orphaned", method="UNKNOWN", status=0, meters={"requests": 1})
    whole = fact(outcome="interim", meters={"requests": 1})
    part = fact(outcome="completed", meters={"requests": 3}, notes={"part_of": whole["id"], "part": 1})
    await writer.store([entry(orphan), entry(whole), entry(part)])
    await world.seal()
    await world.send_all()
    await look_at_stripe(world)
    shown = [await receipt(api, event) for event in (orphan, whole, part)]
    assert [one["settled"]["outcome"] for one in shown] == ["orphaned", "interim", "completed"]
    assert shown[2]["settled"]["notes"] == {"part_of": whole["id"], "part": 1}
    for one in shown:  # all in one slot
        assert told(one) == [("sent", 5)]
        assert one["billed"][0]["seenByStripe"]["agrees"]


async def test_one_that_stripe_found_wrong_says_why(world: World, writer: Writer, api: Client) -> None:
    await world.door._client("live").v1.customers.delete_async(world.customers["cus_ada"])
    event = fact()
    await writer.store([entry(event)])
    await world.seal()
    await world.send_all()
    report_errors(world.fake.world, world.fake.world.half(PLATFORM, livemode=True))
    await world.reports().ask()
    (billed,) = (await receipt(api, event))["billed"]
    assert [(one["state"], one["reason"]) for one in billed["sent"]] == [("dead", "meter_event_customer_not_found")]
