"""Error reports by notice: handled once, whoever else asks; believed only as far as Stripe itself says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from admin.app import running
from config.settings import AdminSettings, Settings, StripeSettings
from ledger.billing.notices import newest, read, store
from ledger.billing.reports import TRIES
from ledger.ingest import Writer
from ledger.metrics import BillingMetrics
from stripefake.meters import report_errors
from stripefake.world import PLATFORM, Half
from tests.ledger.billing.conftest import World
from tests.ledger.billing.test_deliver import use
from tests.support.gateway import until

KIND = "v1.billing.meter.error_report_triggered"


async def reported(world: World, writer: Writer) -> dict[str, Any]:
    """Usage that Stripe took and then found wrong; the notice of it."""
    await use(writer, 5)
    await use(writer, 2, customer="cus_bob")
    await world.seal()
    await world.door._client("live").v1.customers.delete_async(world.customers["cus_ada"])
    await world.send_all()
    [notice] = report_errors(world.fake.world, half(world))
    return notice


async def receive(world: World, notice: dict[str, Any]) -> None:
    """As admin does."""
    assert await store(world.pg, read(orjson.dumps(notice)))
    await world.pg.execute("UPDATE stripe_events SET available_at = $1", world.now)


def half(world: World) -> Half:
    return world.fake.world.half(PLATFORM, livemode=True)


async def states(world: World) -> list[tuple[str, str | None]]:
    return [(row["state"], row["reason"]) for row in await newest(world.pg)]


OUTCOME = [("dead", "meter_event_customer_not_found"), ("sent", "accepted")]


async def test_a_notice_puts_the_entry_aside(world: World, writer: Writer) -> None:
    notice = await reported(world, writer)
    await receive(world, notice)
    assert await world.reports().handle_notices() == 1
    assert await world.reports().handle_notices() == 0
    assert sorted(await world.reasons()) == OUTCOME
    assert await states(world) == [("handled", None)]
    assert await world.pg.fetchval("SELECT errors FROM stripe_reports") == 1
    assert await world.reports().ask() == 0  # it is known


async def test_asking_was_first(world: World, writer: Writer) -> None:
    notice = await reported(world, writer)
    assert await world.reports().ask() == 1
    await world.pg.execute("UPDATE billing_entries SET state = 'replayed' WHERE state = 'dead'")
    await receive(world, notice)
    assert await world.reports().handle_notices() == 1
    assert await states(world) == [("handled", None)]
    assert await world.count("dead") == 0  # a late notice undoes nothing


async def test_many_workers_handle_it_once(world: World, writer: Writer) -> None:
    notice = await reported(world, writer)
    await receive(world, notice)
    metrics = BillingMetrics(registry := CollectorRegistry())
    world.metrics = metrics
    await asyncio.gather(
        *(work() for one in [world.reports() for _ in range(3)] for work in (one.handle_notices, one.ask))
    )
    assert registry.get_sample_value("tollgate_billing_rejected_total") == 1
    assert await states(world) == [("handled", None)]


async def test_what_stripe_does_not_know_is_tried_again_and_given_up_visibly(world: World) -> None:
    made_up = {"id": "evt_made_up", "type": KIND, "livemode": True, "data": {"reason": {"error_count": 9}}}
    await receive(world, made_up)
    reports = world.reports()
    assert await reports.handle_notices() == 1
    assert await reports.handle_notices() == 0  # not at once
    for _ in range(TRIES):
        world.pass_time(timedelta(minutes=10))
        await reports.handle_notices()
    [(state, reason)] = await states(world)
    assert state == "failed"
    assert reason is not None
    assert "resource_missing" in reason
    assert await world.pg.fetchval("SELECT count(*) FROM stripe_reports") == 0


async def test_stripe_away_delays_it(world: World, writer: Writer) -> None:
    notice = await reported(world, writer)
    await receive(world, notice)
    world.fake.world.faults.add({"kind": "drop_before", "path": "/v2/core/events", "times": 2})
    for _ in range(3):
        await world.reports().handle_notices()
        world.pass_time(timedelta(minutes=10))
    assert await states(world) == [("handled", None)]
    assert sorted(await world.reasons()) == OUTCOME


async def test_a_connected_account_s_report_is_read_there(world: World, writer: Writer) -> None:
    world.fake.world.accounts.add("acct_1")
    await world.pg.execute("UPDATE stripe_accounts SET account = 'acct_1'")
    client, options = world.door._client("live"), {"stripe_account": "acct_1"}
    meter = {"display_name": "API", "event_name": "api", "default_aggregation": {"formula": "sum"}}
    await client.v1.billing.meters.create_async(meter, options)  # type: ignore[arg-type]
    await use(writer, 5)
    await world.seal()
    await world.send_all()  # of a customer that this account does not know
    [notice] = report_errors(world.fake.world, world.fake.world.half("acct_1", livemode=True))
    assert notice["context"] == "acct_1"
    await receive(world, notice)
    await world.reports().handle_notices()
    assert await world.reasons() == [("dead", "meter_event_customer_not_found")]


@pytest.fixture
async def webhook(world: World, postgres_url: str) -> AsyncIterator[str]:
    """Admin, with a thin event destination of the fake's that calls it; the destination's secret is admin's."""
    client = world.door._client("live")
    made = await client.raw_request_async(
        "post", "/v2/core/event_destinations",
        name="us", type="webhook_endpoint", event_payload="thin", enabled_events=[KIND],
        webhook_endpoint={"url": "http://127.0.0.1:1"}, include=["webhook_endpoint.signing_secret"],
    )  # fmt: skip
    stored = half(world).of("webhook_endpoint")[made.data["id"]]
    settings = Settings(
        postgres_url=SecretStr(postgres_url),
        admin=AdminSettings(port=0, metrics_port=0),
        stripe=StripeSettings(webhook_secrets=SecretStr(f"whsec_old,{stored['secret']}")),
    )
    async with running(settings) as admin:
        stored["url"] = f"{admin.url}/webhook/stripe"
        yield admin.metrics_url


async def test_twice_late_and_shuffled_they_count_once(world: World, writer: Writer, webhook: str) -> None:
    """The whole way: a usage that Stripe refuses afterwards, its signed notice, admin, and the worker's part."""
    options = world.fake.world.options
    options.paused, options.shuffle, options.duplicate = True, True, 1.0
    await reported(world, writer)
    world.fake.world.clock.set(time.time(), is_frozen=False)  # admin's time, which the signatures are looked at by
    options.paused = False

    async def received() -> bool:
        return bool(await newest(world.pg))

    await until(received)

    async def delivered_twice() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{webhook}/metrics") as answer:
            return 'tollgate_stripe_notices_total{outcome="duplicate"} 1.0' in await answer.text()

    await until(delivered_twice)
    assert await states(world) == [("received", None)]
    await world.pg.execute("UPDATE stripe_events SET available_at = $1", world.now)
    await world.reports().handle_notices()
    assert sorted(await world.reasons()) == OUTCOME
