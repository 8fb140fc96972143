"""What the fake does beyond being Stripe: it fails on demand, moves its clock, keeps halves apart, shuffles webhooks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import stripe
from aiohttp import web

from stripefake.app import OPERATIONS, Running
from stripefake.errors import Refusal
from stripefake.faults import BEFORE, KINDS
from stripefake.schema import check, fields_of, params_type
from tests.stripefake.conftest import Steering

Clients = Callable[..., stripe.StripeClient]


async def api_meter(client: stripe.StripeClient, options: Any = None) -> Any:
    return await client.v1.billing.meters.create_async(
        {"display_name": "API", "event_name": "api", "default_aggregation": {"formula": "sum"}}, options
    )


def event(customer: str, value: int | str = 3, **more: Any) -> Any:
    return {"event_name": "api", "payload": {"stripe_customer_id": customer, "value": str(value)}, **more}


async def units(steer: Steering) -> dict[tuple[str, bool], dict[str, dict[str, int]]]:
    state = await steer("GET", "state")
    return {(half["account"], half["livemode"]): half["units"] for half in state["halves"]}


async def until(right: Callable[[], Any]) -> Any:
    async with asyncio.timeout(5):
        while not (found := right()):
            await asyncio.sleep(0.01)
    return found


# Types

EVENT = "billing.MeterEventCreateParams"
SUBSCRIPTION = "SubscriptionCreateParams"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.method} {o.path}")
def test_the_installed_library_knows_the_parameters_of_every_operation(operation: Any) -> None:
    if operation.params is not None:
        assert isinstance(fields_of(params_type(operation.params)), dict)


@pytest.mark.parametrize(
    ("name", "given", "code", "param"),
    [
        ("billing.MeterCreateParams", {"display_name": "x", "event_name": "y"}, "parameter_missing", "default_aggregation"),
        (
            "billing.MeterCreateParams",
            {"display_name": "x", "event_name": "y", "default_aggregation": {"formula": "avg"}},
            "parameter_invalid_enum",
            "default_aggregation[formula]",
        ),
        (
            "PriceCreateParams",
            {"currency": "usd", "recurring": {"interval": "month", "aggregate_usage": "sum"}},
            "parameter_unknown",
            "recurring[aggregate_usage]",
        ),
        (EVENT, {"event_name": "x", "payload": {}, "timestamp": "1.5"}, "parameter_invalid_integer", "timestamp"),
        (EVENT, {"event_name": "x", "payload": "y"}, None, "payload"),
        (SUBSCRIPTION, {"customer": "c", "items": {"0": {"prize": "p"}}}, "parameter_unknown", "items[0][prize]"),
        (SUBSCRIPTION, {"customer": "c", "items": "x"}, None, "items"),
        (SUBSCRIPTION, {"cancel_at_period_end": "yes"}, None, "cancel_at_period_end"),
        ("CustomerCreateParams", {"idempotency_key": "x"}, "parameter_unknown", "idempotency_key"),
    ],
)  # fmt: skip
def test_the_types_refuse(name: str, given: Any, code: str | None, param: str) -> None:
    with pytest.raises(Refusal) as refusal:
        check(params_type(name), given)
    error = refusal.value.body["error"]
    assert error["param"] == param
    assert code in (None, error["code"])


# Faults


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_fault_is_what_it_says(
    kind: str, client: stripe.StripeClient, client_of: Clients, steer: Steering
) -> None:
    """Carried out or not, the same request with the same key afterwards ends in one and the same truth."""
    await api_meter(client)
    ada = await client.v1.customers.create_async({"name": "Ada"})
    await steer.fault(kind, path="/v1/billing/meter_events", delay_ms=20)
    options: Any = {"idempotency_key": "once"}

    if kind == "delay":
        await client.v1.billing.meter_events.create_async(event(ada.id, identifier="e1"), options)
    else:
        with pytest.raises((stripe.StripeError, aiohttp.ClientError)) as failure:
            await client.v1.billing.meter_events.create_async(event(ada.id, identifier="e1"), options)
        if kind == "429":
            assert isinstance(failure.value, stripe.RateLimitError)
        if kind == "truncate":
            assert isinstance(failure.value, aiohttp.ClientPayloadError)

    is_done = kind not in BEFORE and kind != "500"
    assert (await units(steer))[("acct_fakeplatform", False)] == ({"api": {ada.id: 3}} if is_done else {})
    again = await answered(client.v1.billing.meter_events.create_async(event(ada.id, identifier="e1"), options))
    assert again is (kind not in ("500", "500_after"))  # a 500 is replayed
    if not again:
        repeated = await answered(client.v1.billing.meter_events.create_async(event(ada.id, identifier="e1")))
        assert repeated is (kind == "500")
    assert (await units(steer))[("acct_fakeplatform", False)] == {"api": {ada.id: 3}}


async def test_faults_have_times_paths_and_odds(client: stripe.StripeClient, steer: Steering) -> None:
    await steer.fault("429", method="POST", path="/v1/products", times=2)
    await client.v1.customers.create_async({"name": "Ada"})
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError):
            await client.v1.products.create_async({"name": "x"})
    await client.v1.products.create_async({"name": "x"})

    await steer.fault("500", probability=0.5, times=None, seed=7)
    results = [await answered(client.v1.products.create_async({"name": "x"})) for _ in range(40)]
    assert 8 < sum(results) < 32
    await steer("DELETE", "faults")
    assert await steer("GET", "faults") == []
    lines = await steer("GET", "requests")
    assert lines[-1]["fault"] in (None, "500")
    assert len(lines) == 44


async def answered(call: Any) -> bool:
    try:
        await call
    except stripe.StripeError:
        return False
    return True


async def test_a_control_request_that_makes_no_sense_is_400(steer: Steering) -> None:
    for path, body in (
        ("faults", {"kind": "gremlins"}),
        ("faults", {"sort": "500"}),
        ("clock", [1]),
        ("options", {"x": 1}),
    ):
        async with steer.session.post(f"{steer.url}/_fake/{path}", json=body) as answer:
            assert answer.status == 400, path


async def test_calls_for_one_customer_and_meter_must_not_overlap(client: stripe.StripeClient, steer: Steering) -> None:
    await api_meter(client)
    ada = await client.v1.customers.create_async({"name": "Ada"})
    bob = await client.v1.customers.create_async({"name": "Bob"})
    await steer("POST", "options", {"latency_ms": 50})

    calls = [client.v1.billing.meter_events.create_async(event(who)) for who in (ada.id, bob.id, ada.id)]
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(result) for result in results].count(stripe.RateLimitError) == 1
    assert (await steer("GET", "state"))["most_at_once"] == 2


async def test_a_rate_can_be_set(client: stripe.StripeClient, steer: Steering) -> None:
    await steer("POST", "options", {"requests_per_second": 5})
    results = [await answered(client.v1.products.create_async({"name": "x"})) for _ in range(9)]
    assert results.count(True) == 5


# Halves and time


async def test_modes_and_accounts_share_nothing(client_of: Clients, steer: Steering) -> None:
    test, live = client_of("sk_test_1"), client_of("sk_live_1")
    connected: Any = {"stripe_account": "acct_1"}
    ada = await test.v1.customers.create_async({"name": "Ada"})
    assert ada.livemode is False

    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        await live.v1.customers.retrieve_async(ada.id)
    with pytest.raises(stripe.PermissionError):
        await test.v1.customers.create_async({"name": "Bob"}, connected)
    await steer("POST", "accounts", {"id": "acct_1"})
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        await test.v1.customers.retrieve_async(ada.id, None, connected)

    await api_meter(test, connected)
    bob = await test.v1.customers.create_async({"name": "Bob"}, connected)
    await test.v1.billing.meter_events.create_async(event(bob.id), connected)
    await test.v1.billing.meter_events.create_async(event(ada.id))
    assert await units(steer) == {
        ("acct_fakeplatform", False): {},
        ("acct_fakeplatform", True): {},
        ("acct_1", False): {"api": {bob.id: 3}},
    }


async def test_identifiers_and_idempotency_keys_are_forgotten_after_a_day(
    client: stripe.StripeClient, steer: Steering
) -> None:
    await api_meter(client)
    ada = await client.v1.customers.create_async({"name": "Ada"})
    options: Any = {"idempotency_key": "once"}
    await client.v1.billing.meter_events.create_async(event(ada.id, identifier="e1"), options)
    await steer("POST", "clock", {"advance_s": 86_399})
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        await client.v1.billing.meter_events.create_async(event(ada.id, identifier="e1"))

    await steer("POST", "clock", {"advance_s": 2})
    await client.v1.billing.meter_events.create_async(event(ada.id, identifier="e1"), options)

    assert (await units(steer))[("acct_fakeplatform", False)] == {"api": {ada.id: 6}}


async def test_periods_follow_the_anchor_as_the_clock_moves(client: stripe.StripeClient, steer: Steering) -> None:
    january = 1_769_846_400  # 2026-01-31T08:00:00Z
    await steer("POST", "clock", {"now": january, "frozen": True})
    ada = await client.v1.customers.create_async({"name": "Ada"})
    price = await client.v1.prices.create_async(
        {"currency": "usd", "unit_amount": 100, "product_data": {"name": "x"}, "recurring": {"interval": "month"}}
    )
    made = await client.v1.subscriptions.create_async({"customer": ada.id, "items": [{"price": price.id}]})
    days = []
    for _ in range(3):
        item = (await client.v1.subscriptions.retrieve_async(made.id))["items"].data[0]
        days.append((item.current_period_end - item.current_period_start) // 86_400)
        await steer("POST", "clock", {"now": item.current_period_end, "frozen": True})
    assert days == [28, 31, 30]

    await client.v1.subscriptions.update_async(made.id, {"cancel_at_period_end": True})
    await steer("POST", "clock", {"advance_s": 32 * 86_400})
    assert (await client.v1.subscriptions.retrieve_async(made.id)).status == "canceled"


async def test_a_checkout_is_completed_by_the_control_endpoint(client: stripe.StripeClient, steer: Steering) -> None:
    price = await client.v1.prices.create_async(
        {"currency": "usd", "unit_amount": 100, "product_data": {"name": "x"}, "recurring": {"interval": "month"}}
    )
    session = await client.v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "line_items": [{"price": price.id, "quantity": 1}],
            "success_url": "https://example.com/ok",
            "customer_email": "ada@example.com",
        }
    )
    done = await steer("POST", f"checkout/{session.id}/complete")
    assert done["status"] == "complete"
    subscription = await client.v1.subscriptions.retrieve_async(done["subscription"])
    assert subscription.status == "active"
    kinds = {one.type for one in (await client.v1.events.list_async({"limit": 100})).data}
    assert {"customer.created", "customer.subscription.created", "checkout.session.completed"} <= kinds


# Meter events that turn out wrong


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"event_name": "nothing"}, "no_meter"),
        ({"payload": {"value": "3"}}, "meter_event_no_customer_defined"),
        ({"payload": {"stripe_customer_id": "cus_gone", "value": "3"}}, "meter_event_customer_not_found"),
        ({"payload": {"stripe_customer_id": "ADA"}}, "meter_event_value_not_found"),
        *[
            ({"payload": {"stripe_customer_id": "ADA", "value": value}}, "meter_event_invalid_value")
            for value in ("-1", "1.5", "NaN", "9" * 16, "")
        ],
    ],
)
async def test_what_turns_out_wrong_is_accepted_counts_nothing_and_is_reported(
    wrong: Any, code: str, client: stripe.StripeClient, steer: Steering
) -> None:
    await api_meter(client)
    ada = await client.v1.customers.create_async({"name": "Ada"})
    bad = event(ada.id, identifier="bad") | wrong
    if bad["payload"].get("stripe_customer_id") == "ADA":
        bad["payload"]["stripe_customer_id"] = ada.id
    await client.v1.billing.meter_events.create_async(bad)
    await client.v1.billing.meter_events.create_async(event(ada.id, identifier="good"))

    assert (await units(steer))[("acct_fakeplatform", False)] == {"api": {ada.id: 3}}
    (notice,) = await steer("POST", "meter-errors")
    assert await steer("POST", "meter-errors") == []
    full = await client.raw_request_async("get", f"/v2/core/events/{notice['id']}")
    (kind,) = full.data["data"]["reason"]["error_types"]
    assert (kind["code"], kind["sample_errors"][0]["request"]["identifier"]) == (code, "bad")


async def test_an_event_can_be_cancelled_for_a_day(client: stripe.StripeClient, steer: Steering) -> None:
    await api_meter(client)
    ada = await client.v1.customers.create_async({"name": "Ada"})
    for name in ("one", "two"):
        await client.v1.billing.meter_events.create_async(event(ada.id, identifier=name))
    cancel: Any = {"event_name": "api", "type": "cancel", "cancel": {"identifier": "one"}}
    await client.v1.billing.meter_event_adjustments.create_async(cancel)
    assert (await units(steer))[("acct_fakeplatform", False)] == {"api": {ada.id: 3}}

    await steer("POST", "clock", {"advance_s": 86_401})
    with pytest.raises(stripe.InvalidRequestError, match="24 hours"):
        await client.v1.billing.meter_event_adjustments.create_async({**cancel, "cancel": {"identifier": "two"}})


# Webhooks


@asynccontextmanager
async def receiver(fail_first: int = 0) -> AsyncIterator[tuple[str, list[tuple[bytes, str]]]]:
    """Keeps what it got: (body, signature). Answers 500 to the first few."""
    got: list[tuple[bytes, str]] = []
    failures = [fail_first]

    async def take(request: web.Request) -> web.Response:
        if failures[0]:
            failures[0] -= 1
            return web.Response(status=500)
        got.append((await request.read(), request.headers["Stripe-Signature"]))
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", got
    await runner.cleanup()


async def test_webhooks_are_signed_and_tried_again(client: stripe.StripeClient, steer: Steering, fake: Running) -> None:
    async with receiver(fail_first=2) as (url, got):
        endpoint = await client.v1.webhook_endpoints.create_async({"url": url, "enabled_events": ["customer.created"]})
        assert endpoint.secret is not None
        await client.v1.customers.create_async({"name": "Ada"})
        await client.v1.products.create_async({"name": "not wanted"})
        await until(lambda: got)

        parsed = client.construct_event(*got[0], endpoint.secret)
        assert parsed.type == "customer.created"
        with pytest.raises(stripe.SignatureVerificationError):
            client.construct_event(got[0][0], got[0][1], "whsec_other")
        await until(lambda: fake.delivery.delivered == 1)


async def test_webhooks_come_shuffled_twice_and_late_if_wanted(
    client: stripe.StripeClient, steer: Steering, fake: Running
) -> None:
    async with receiver() as (url, got):
        endpoint = await client.v1.webhook_endpoints.create_async({"url": url, "enabled_events": ["*"]})
        await steer("POST", "options", {"shuffle": True, "duplicate": 1.0, "paused": True})
        for number in range(10):
            await client.v1.customers.create_async({"name": str(number)})
        assert got == []
        await steer("POST", "options", {"paused": False})
        await until(lambda: len(got) == 20)

        names = [client.construct_event(*one, endpoint.secret or "").data.object["name"] for one in got]
        assert sorted(names) == sorted([str(n) for n in range(10)] * 2)
        assert names != sorted(names)


async def test_reports_of_meter_errors_are_thin_events(client: stripe.StripeClient, steer: Steering) -> None:
    async with receiver() as (url, got):
        kind: Any = "v1.billing.meter.error_report_triggered"
        destination = await client.v2.core.event_destinations.create_async(
            {
                "name": "errors",
                "type": "webhook_endpoint",
                "event_payload": "thin",
                "enabled_events": [kind],
                "webhook_endpoint": {"url": url},
                "include": ["webhook_endpoint.signing_secret"],
            }
        )
        assert destination.webhook_endpoint is not None
        await api_meter(client)
        await client.v1.billing.meter_events.create_async(event("cus_gone", identifier="bad"))
        await steer("POST", "meter-errors")
        await until(lambda: got)

        notice = client.parse_event_notification(*got[0], destination.webhook_endpoint.signing_secret or "")
        assert notice.type == kind
        full: Any = await notice.fetch_event_async()
        assert full.data.reason.error_types[0].code == "meter_event_customer_not_found"


# The command


def test_the_command_serves_until_it_is_asked_to_stop() -> None:
    command = [sys.executable, "-m", "tollgate.cli", "stripe-fake", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line.startswith("stripe-fake listens on http://127.0.0.1:")
            url = line.split()[-1]
            base = {"api": url}
            customer = stripe.StripeClient("sk_test_1", base_addresses=base).v1.customers.create({"name": "Ada"})
            assert customer.name == "Ada"
        finally:
            process.terminate()
            assert process.wait(10) == 0


async def test_a_port_in_use_is_one_line(fake: Running) -> None:
    port = fake.url.rpartition(":")[2]
    command = [sys.executable, "-m", "tollgate.cli", "stripe-fake", "--port", port]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tollgate: cannot listen on 127.0.0.1:{port}")
    assert done.stderr.count("\n") == 1
