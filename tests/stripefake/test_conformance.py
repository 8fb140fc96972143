"""What holds for the fake and for the real Stripe alike: run against both, the real one where a test key is set.

STRIPE_TEST_KEY=sk_test_… runs it against that account's sandbox too. It makes customers, products, prices and meters
there, and takes away what can be taken away.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
import stripe

from stripefake.app import running

KEY = os.environ.get("STRIPE_TEST_KEY", "")
SETTLED_S = 300.0  # the real one aggregates in the background
sandbox = pytest.mark.skipif(not KEY.startswith("sk_test_"), reason="STRIPE_TEST_KEY is not a sandbox's sk_test_… key")


@pytest.fixture(params=["fake", pytest.param("sandbox", marks=[sandbox, pytest.mark.timeout(600)])])
async def real(request: pytest.FixtureRequest) -> AsyncIterator[stripe.StripeClient]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        http = stripe.AIOHTTPClient(session=session, timeout=30)
        if request.param == "sandbox":
            yield stripe.StripeClient(KEY, http_client=http, max_network_retries=0)
            return
        async with running() as fake:
            yield stripe.StripeClient(
                "sk_test_1", http_client=http, base_addresses={"api": fake.url}, max_network_retries=0
            )


@pytest.fixture
async def meter(real: stripe.StripeClient) -> AsyncIterator[Any]:
    name = f"tollgate_test_{uuid.uuid4().hex[:12]}"
    made = await real.v1.billing.meters.create_async(
        {"display_name": name, "event_name": name, "default_aggregation": {"formula": "sum"}}
    )
    yield made
    await real.v1.billing.meters.deactivate_async(made.id)


@pytest.fixture
async def customer(real: stripe.StripeClient) -> AsyncIterator[Any]:
    made = await real.v1.customers.create_async({"name": "Ada", "email": "ada@example.com", "metadata": {"a": "1"}})
    yield made
    await real.v1.customers.delete_async(made.id)


async def refused(call: Any) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as refusal:
        await call
    return refusal.value


async def test_customers_are_kept_changed_and_deleted(real: stripe.StripeClient) -> None:
    made = await real.v1.customers.create_async({"name": "Ada", "metadata": {"a": "1", "b": "2"}})
    changed = await real.v1.customers.update_async(made.id, {"name": "Bob", "metadata": {"a": ""}})
    found = await real.v1.customers.retrieve_async(made.id)
    assert (changed.name, found.name, found.metadata.to_dict()) == ("Bob", "Bob", {"b": "2"})
    assert made.livemode is False

    assert (await real.v1.customers.delete_async(made.id)).deleted is True
    assert (await real.v1.customers.retrieve_async(made.id)).deleted is True
    error = await refused(real.v1.customers.update_async(made.id, {"name": "Eve"}))
    assert (error.http_status, error.code) == (404, "resource_missing")


async def test_what_is_not_a_parameter_is_refused(real: stripe.StripeClient) -> None:
    error = await refused(real.v1.customers.create_async({"nmae": "Ada"}))  # type: ignore[typeddict-unknown-key]
    assert (error.http_status, error.code, error.param) == (400, "parameter_unknown", "nmae")
    error = await refused(real.v1.billing.meters.create_async({"display_name": "x"}))  # type: ignore[typeddict-item]
    assert (error.http_status, error.code) == (400, "parameter_missing")


async def test_a_metered_price_needs_a_meter(real: stripe.StripeClient, meter: Any) -> None:
    product = await real.v1.products.create_async({"name": "API calls"})
    price: Any = {"currency": "usd", "product": product.id, "unit_amount_decimal": Decimal("0.1")}
    recurring = {"interval": "month", "usage_type": "metered"}

    error = await refused(real.v1.prices.create_async({**price, "recurring": recurring}))
    assert error.http_status == 400
    made = await real.v1.prices.create_async({**price, "recurring": {**recurring, "meter": meter.id}})

    assert (made.unit_amount, made.unit_amount_decimal) == (None, Decimal("0.1"))
    assert made.recurring is not None
    assert made.recurring.meter == meter.id
    await real.v1.prices.update_async(made.id, {"active": False})


async def test_an_identifier_counts_once_and_the_second_time_is_a_400(
    real: stripe.StripeClient, meter: Any, customer: Any
) -> None:
    event: Any = {
        "event_name": meter.event_name,
        "identifier": f"tollgate-{uuid.uuid4().hex}",
        "timestamp": int(time.time()) - 60,
        "payload": {"stripe_customer_id": customer.id, "value": "3"},
    }
    made = await real.v1.billing.meter_events.create_async(event)
    assert (made.identifier, made.payload.to_dict()["value"]) == (event["identifier"], "3")

    error = await refused(real.v1.billing.meter_events.create_async(event))
    assert (error.http_status, type(error)) == (400, stripe.InvalidRequestError)
    assert "already exists with identifier" in str(error)


async def test_the_same_idempotency_key_gets_the_same_answer(
    real: stripe.StripeClient, meter: Any, customer: Any
) -> None:
    event: Any = {
        "event_name": meter.event_name,
        "identifier": f"tollgate-{uuid.uuid4().hex}",
        "timestamp": int(time.time()) - 60,
        "payload": {"stripe_customer_id": customer.id, "value": "3"},
    }
    options: Any = {"idempotency_key": uuid.uuid4().hex}
    first = await real.v1.billing.meter_events.create_async(event, options)
    second = await real.v1.billing.meter_events.create_async(event, options)
    assert second.to_dict() == first.to_dict()

    error = await refused(real.v1.billing.meter_events.create_async({**event, "timestamp": 1}, options))
    assert isinstance(error, stripe.IdempotencyError)


@pytest.mark.parametrize("offset_s", [-36 * 86_400, 600])
async def test_the_window_of_timestamps(real: stripe.StripeClient, meter: Any, customer: Any, offset_s: int) -> None:
    event: Any = {
        "event_name": meter.event_name,
        "timestamp": int(time.time()) + offset_s,
        "payload": {"stripe_customer_id": customer.id, "value": "3"},
    }
    error = await refused(real.v1.billing.meter_events.create_async(event))
    assert error.http_status == 400


async def test_summaries_add_up_what_was_sent(real: stripe.StripeClient, meter: Any, customer: Any) -> None:
    hour = int(time.time()) // 3600 * 3600
    for moment, value in ((hour - 7200, 3), (hour - 7199, 4), (hour - 1, 5)):
        await real.v1.billing.meter_events.create_async(
            {
                "event_name": meter.event_name,
                "timestamp": moment,
                "payload": {"stripe_customer_id": customer.id, "value": str(value)},
            }
        )
    window: Any = {"customer": customer.id, "start_time": hour - 7200, "end_time": hour}
    deadline = time.monotonic() + SETTLED_S
    while True:
        page = await real.v1.billing.meters.event_summaries.list_async(
            meter.id, {**window, "value_grouping_window": "hour"}
        )
        found = {s.start_time: s.aggregated_value for s in page.data if s.aggregated_value}
        if sum(found.values()) == 12 or time.monotonic() > deadline:
            break
        await asyncio.sleep(2)
    assert found == {hour - 7200: 7, hour - 3600: 5}

    error = await refused(
        real.v1.billing.meters.event_summaries.list_async(meter.id, {**window, "start_time": hour - 7201})
    )
    assert error.http_status == 400


async def test_a_subscription_to_a_metered_price(real: stripe.StripeClient, meter: Any, customer: Any) -> None:
    product = await real.v1.products.create_async({"name": "API calls"})
    price = await real.v1.prices.create_async(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 2,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    error = await refused(
        real.v1.subscriptions.create_async(
            {"customer": customer.id, "items": [{"price": price.id, "quantity": 2}], "trial_period_days": 14}
        )
    )
    assert error.http_status == 400
    made = await real.v1.subscriptions.create_async(
        {"customer": customer.id, "items": [{"price": price.id}], "trial_period_days": 14}
    )
    item = made["items"].data[0]
    assert (made.status, item.price.id) == ("trialing", price.id)
    assert item.current_period_end - item.current_period_start == 14 * 86_400

    ended = await real.v1.subscriptions.cancel_async(made.id)
    assert ended.status == "canceled"
    await real.v1.prices.update_async(price.id, {"active": False})


async def test_lists_are_paged(real: stripe.StripeClient) -> None:
    made = [await real.v1.customers.create_async({"name": f"page {n}"}) for n in range(3)]
    page = await real.v1.customers.list_async({"limit": 2})
    assert ([one.id for one in page.data], page.has_more) == ([made[2].id, made[1].id], True)
    rest = await real.v1.customers.list_async({"limit": 1, "starting_after": made[1].id})
    assert rest.data[0].id == made[0].id
    for one in made:
        await real.v1.customers.delete_async(one.id)


async def test_a_wrong_key_is_401(real: stripe.StripeClient) -> None:
    options: Any = {"api_key": "sk_test_definitelynot!"}
    with pytest.raises(stripe.AuthenticationError):
        await real.v1.customers.create_async({"name": "x"}, options)
