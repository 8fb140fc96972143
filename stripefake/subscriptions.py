"""Subscriptions and their items, as far as they bill by a clock: states, periods, changes of price, cancellation.

Payment always succeeds. Periods live on the items, as since 2025-03-31; they roll on as the clock passes their end.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime
from typing import Any, Final

from stripefake.call import Call, Operation, changed, listed, stored
from stripefake.errors import Refusal
from stripefake.world import Half, Object, World

_DAY_S: Final = 86_400


def period_end(anchor: int, start: int, recurring: Object) -> int:
    """The end of the period that begins at `start`, counted from the anchor: Jan 31 → Feb 28 → Mar 31."""
    count = recurring["interval_count"]
    if recurring["interval"] in ("day", "week"):
        return start + int(count) * _DAY_S * (7 if recurring["interval"] == "week" else 1)
    months = int(count) * (12 if recurring["interval"] == "year" else 1)
    first, now = datetime.fromtimestamp(anchor, UTC), datetime.fromtimestamp(start, UTC)
    passed = (now.year - first.year) * 12 + now.month - first.month
    years, month = divmod(first.month - 1 + passed + months, 12)
    year = first.year + years
    day = min(first.day, monthrange(year, month + 1)[1])
    return int(first.replace(year=year, month=month + 1, day=day).timestamp())


async def create(call: Call) -> Object:
    return begin(call, call.need("customer"), call.params.get("items") or [], call.params)


def begin(call: Call, customer: str, wanted: list[Object], params: Any) -> Object:
    """A new subscription of a customer. Raises Refusal."""
    call.half.get("customer", customer, "customer")
    if not wanted:
        raise Refusal("Missing required param: items.", param="items", code="parameter_missing")
    now = call.now
    trial_end = params.get("trial_end")
    if params.get("trial_period_days"):
        trial_end = now + params["trial_period_days"] * _DAY_S
    is_trial = isinstance(trial_end, int) and trial_end > now
    anchor = trial_end if is_trial else params.get("billing_cycle_anchor", now)
    status = (
        "trialing" if is_trial else "incomplete" if params.get("payment_behavior") == "default_incomplete" else "active"
    )
    fields = {
        "billing_cycle_anchor": anchor,
        "billing_mode": params.get("billing_mode", {"type": "flexible"}),
        "cancel_at": None,
        "cancel_at_period_end": params.get("cancel_at_period_end", False),
        "canceled_at": None,
        "collection_method": params.get("collection_method", "charge_automatically"),
        "currency": "usd",
        "customer": customer,
        "default_payment_method": params.get("default_payment_method"),
        "ended_at": None,
        "latest_invoice": None,
        "start_date": now,
        "status": status,
        "trial_start": now if is_trial else None,
        "trial_end": trial_end if is_trial else None,
        "items": {"object": "list", "data": [], "has_more": False, "url": "/v1/subscription_items"},
    }
    prices = [_price(call, item) for item in wanted]
    subscription = stored(call, "subscription", "sub", fields)
    for item, price in zip(wanted, prices, strict=True):
        _add_item(call, subscription, item, price)
    subscription["currency"] = prices[0]["currency"]
    call.world.emit(call.half, "customer.subscription.created", subscription)
    return subscription


def _price(call: Call, item: Object) -> Object:
    if "price" not in item:
        raise Refusal("Missing required param: items[0][price].", param="items[0][price]", code="parameter_missing")
    price = call.half.get("price", item["price"], "items[0][price]")
    if price["recurring"] is None:
        raise Refusal("The price must be recurring.", param="items[0][price]", code="parameter_invalid")
    if price["recurring"]["usage_type"] == "metered" and "quantity" in item:
        raise Refusal("Quantity cannot be set for metered prices.", param="items[0][quantity]")
    return price


def _add_item(call: Call, subscription: Object, item: Object, price: Object) -> Object:
    start = call.now
    end = subscription["trial_end"]
    if end is None:
        end = period_end(subscription["billing_cycle_anchor"], start, price["recurring"])
    made: Object = {
        "id": call.world.new_id("si"),
        "object": "subscription_item",
        "created": call.now,
        "current_period_start": start,
        "current_period_end": end,
        "metadata": dict(item.get("metadata") or {}),
        "price": price,
        "subscription": subscription["id"],
    }
    if price["recurring"]["usage_type"] == "licensed":
        made["quantity"] = item.get("quantity", 1)
    subscription["items"]["data"].append(made)
    return made


async def retrieve(call: Call) -> Object:
    roll_on(call.world, call.half)
    return call.half.get("subscription", call.ids[0])


async def list_(call: Call) -> Object:
    roll_on(call.world, call.half)
    wanted = call.params.get("status")
    found = [
        thing
        for thing in call.half.of("subscription").values()
        if call.params.get("customer") in (None, thing["customer"])
        and (wanted == "all" or thing["status"] == wanted or (wanted is None and thing["status"] != "canceled"))
    ]
    return listed(call, found, "/v1/subscriptions")


async def update(call: Call) -> Object:
    roll_on(call.world, call.half)
    subscription = call.half.get("subscription", call.ids[0])
    if subscription["status"] == "canceled":
        raise Refusal("A canceled subscription can only update its metadata.", param="id")
    before = [dict(item) for item in subscription["items"]["data"]]
    for item in call.params.get("items") or []:
        _change_item(call, subscription, item)
    fields: dict[str, Any] = call.given("default_payment_method", "collection_method")
    if "cancel_at_period_end" in call.params:
        fields["cancel_at_period_end"] = call.params["cancel_at_period_end"]
        fields["canceled_at"] = call.now if fields["cancel_at_period_end"] else None
    if call.params.get("trial_end") == "now":
        fields |= {"trial_end": call.now, "status": "active"}
    changed(call, subscription, fields, event=None)
    call.world.emit(call.half, "customer.subscription.updated", subscription, {"items": {"data": before}})
    return subscription


def _change_item(call: Call, subscription: Object, item: Object) -> None:
    items: list[Object] = subscription["items"]["data"]
    if "id" not in item:
        _add_item(call, subscription, item, _price(call, item))
        return
    found = next((one for one in items if one["id"] == item["id"]), None)
    if found is None:
        raise Refusal(f"No such subscription item: '{item['id']}'", param="items[0][id]", code="resource_missing")
    if item.get("deleted"):
        items.remove(found)
        return
    if "price" in item:
        found["price"] = _price(call, item)
    if "quantity" in item:
        found["quantity"] = item["quantity"]


async def cancel(call: Call) -> Object:
    subscription = call.half.get("subscription", call.ids[0])
    if subscription["status"] == "canceled":
        raise Refusal(f"No such subscription: '{call.ids[0]}'", status=404, code="resource_missing", param="id")
    return _end(call.world, call.half, subscription, call.now)


def _end(world: World, half: Half, subscription: Object, now: int) -> Object:
    subscription.update(status="canceled", canceled_at=subscription["canceled_at"] or now, ended_at=now)
    world.emit(half, "customer.subscription.deleted", subscription)
    return subscription


def roll_on(world: World, half: Half) -> None:
    """Let the clock do its work: trials end, periods begin, cancellations come into force."""
    now = world.clock.now
    for subscription in half.of("subscription").values():
        if subscription["status"] not in ("trialing", "active"):
            continue
        for item in subscription["items"]["data"]:
            while item["current_period_end"] <= now:
                if subscription["cancel_at_period_end"]:
                    _end(world, half, subscription, item["current_period_end"])
                    break
                start = item["current_period_end"]
                item["current_period_start"] = start
                anchor = subscription["billing_cycle_anchor"]
                item["current_period_end"] = period_end(anchor, start, item["price"]["recurring"])
                subscription["status"] = "active"
                world.emit(half, "customer.subscription.updated", subscription, {})


def _items_of(call: Call, subscription_id: str) -> Object:
    return call.half.get("subscription", subscription_id, "subscription")


async def list_items(call: Call) -> Object:
    subscription = _items_of(call, call.params["subscription"])
    return listed(call, reversed(subscription["items"]["data"]), "/v1/subscription_items")


async def create_item(call: Call) -> Object:
    subscription = _items_of(call, call.params["subscription"])
    item = dict(call.params)
    made = _add_item(call, subscription, item, _price(call, item))
    call.world.emit(call.half, "customer.subscription.updated", subscription, {})
    return made


async def delete_item(call: Call) -> Object:
    for subscription in call.half.of("subscription").values():
        for item in subscription["items"]["data"]:
            if item["id"] == call.ids[0]:
                subscription["items"]["data"].remove(item)
                call.world.emit(call.half, "customer.subscription.updated", subscription, {})
                return {"id": item["id"], "object": "subscription_item", "deleted": True}
    raise Refusal(f"No such subscription_item: '{call.ids[0]}'", status=404, code="resource_missing", param="id")


OPERATIONS: Final = (
    Operation("POST", "/v1/subscriptions", "SubscriptionCreateParams", create),
    Operation("GET", "/v1/subscriptions", "SubscriptionListParams", list_),
    Operation("GET", "/v1/subscriptions/{id}", "SubscriptionRetrieveParams", retrieve),
    Operation("POST", "/v1/subscriptions/{id}", "SubscriptionUpdateParams", update),
    Operation("DELETE", "/v1/subscriptions/{id}", "SubscriptionCancelParams", cancel),
    Operation("GET", "/v1/subscription_items", "SubscriptionItemListParams", list_items),
    Operation("POST", "/v1/subscription_items", "SubscriptionItemCreateParams", create_item),
    Operation("DELETE", "/v1/subscription_items/{id}", "SubscriptionItemDeleteParams", delete_item),
)
