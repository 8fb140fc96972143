"""Meters, meter events, adjustments and summaries.

Looked at while the client waits (400): the parameters, the window of time, an identifier that was seen before. Looked at
afterwards: whether there is such a meter and customer and the value is a whole number that is not negative; what fails
then was answered with 200, never counts, and is told of in error reports, as with the real one.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, Final

from stripefake.call import Call, Operation, changed, one, plain, stored
from stripefake.errors import Refusal
from stripefake.world import Half, MeterEvent, Object, World

DAY_S: Final = 86_400
OLDEST_S: Final = 35 * DAY_S
AHEAD_S: Final = 300
UNIQUE_S: Final = DAY_S
"""An identifier is refused a second time for so long; afterwards it counts again, as the real one warns."""
MAX_IDENTIFIER: Final = 100

_WHOLE: Final = re.compile(r"\d{1,15}", re.ASCII)
_WINDOWS: Final = {"hour": 3600, "day": DAY_S}


async def create_meter(call: Call) -> Object:
    params = call.params
    if any(m["event_name"] == params["event_name"] and m["status"] == "active" for m in _meters(call.half)):
        raise Refusal(
            f"There is already an active meter with event name {params['event_name']}.",
            param="event_name",
            code="resource_already_exists",
        )
    fields = {
        "customer_mapping": params.get(
            "customer_mapping", {"event_payload_key": "stripe_customer_id", "type": "by_id"}
        ),
        "default_aggregation": params["default_aggregation"],
        "display_name": params["display_name"],
        "event_name": params["event_name"],
        "event_time_window": params.get("event_time_window"),
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": call.now,
        "value_settings": params.get("value_settings", {"event_payload_key": "value"}),
    }
    return stored(call, "billing.meter", "mtr", fields, event="billing.meter.created")


async def update_meter(call: Call) -> Object:
    meter = call.half.get("billing.meter", call.ids[0])
    return changed(call, meter, call.given("display_name"), event="billing.meter.updated")


async def deactivate(call: Call) -> Object:
    meter = call.half.get("billing.meter", call.ids[0])
    fields = {"status": "inactive", "status_transitions": {"deactivated_at": call.now}}
    return changed(call, meter, fields, event="billing.meter.deactivated")


async def reactivate(call: Call) -> Object:
    meter = call.half.get("billing.meter", call.ids[0])
    fields = {"status": "active", "status_transitions": {"deactivated_at": None}}
    return changed(call, meter, fields, event="billing.meter.reactivated")


async def create_event(call: Call) -> Object:
    params, half, now = call.params, call.half, call.now
    customer = (params["event_name"], params["payload"].get("stripe_customer_id", ""))
    half.in_flight[customer] += 1
    call.world.most_at_once = max(call.world.most_at_once, half.in_flight[customer])
    try:
        if half.in_flight[customer] > 1:
            raise Refusal(
                "There is already a request in flight for this customer and meter.",
                status=429,
                kind="rate_limit_error",
                code="lock_timeout",
            )
        if call.world.options.latency_ms:
            await asyncio.sleep(call.world.options.latency_ms / 1000)
        return _accept(call, now)
    finally:
        half.in_flight[customer] -= 1


def _accept(call: Call, now: int) -> Object:
    params, half = call.params, call.half
    timestamp = params.get("timestamp", now)
    if timestamp < now - OLDEST_S:
        raise Refusal(
            "The timestamp must be within the past 35 calendar days.",
            param="timestamp",
            code="timestamp_too_far_in_past",
        )
    if timestamp > now + AHEAD_S:
        raise Refusal(
            "The timestamp must be at most 5 minutes in the future.", param="timestamp", code="timestamp_in_future"
        )
    identifier = params.get("identifier") or call.world.new_id("mtrevt")
    if len(identifier) > MAX_IDENTIFIER:
        raise Refusal("Invalid string: identifier has more than 100 characters", param="identifier")
    seen = half.identifiers.get(identifier)
    if seen is not None and now - seen < UNIQUE_S:
        raise Refusal(
            f"An event already exists with identifier {identifier}.",
            param="identifier",
            headers={"Stripe-Should-Retry": "false"},
        )
    half.identifiers[identifier] = now
    event = MeterEvent(params["event_name"], identifier, dict(params["payload"]), timestamp, now)
    half.meter_events.append(event)
    return {
        "object": "billing.meter_event",
        "created": now,
        "event_name": event.event_name,
        "identifier": identifier,
        "livemode": half.livemode,
        "payload": event.payload,
        "timestamp": timestamp,
    }


async def create_adjustment(call: Call) -> Object:
    """Cancel one event, within a day of its receipt."""
    identifier = (call.params.get("cancel") or {}).get("identifier")
    if identifier is None:
        raise Refusal("Missing required param: cancel[identifier].", param="cancel[identifier]")
    found = [
        event
        for event in call.half.meter_events
        if event.identifier == identifier and event.event_name == call.params["event_name"]
    ]
    if not found:
        raise Refusal(f"No event exists with identifier {identifier}.", param="cancel[identifier]")
    if call.now - found[-1].received > DAY_S:
        raise Refusal("Events can only be cancelled within 24 hours of receipt.", param="cancel[identifier]")
    found[-1].is_canceled = True
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": call.params["event_name"],
        "livemode": call.half.livemode,
        "status": "pending",
        "type": "cancel",
    }


async def list_summaries(call: Call) -> Object:
    params = call.params
    meter = call.half.get("billing.meter", call.ids[0])
    start, end, window = params["start_time"], params["end_time"], params.get("value_grouping_window")
    step = _WINDOWS.get(window or "", 60)
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % step:
            raise Refusal(f"{name} must be aligned with {window or 'minute'} boundaries", param=name)
    if end <= start:
        raise Refusal("end_time must be after start_time", param="end_time")
    process(call.world, call.half)
    horizon = call.now - call.world.options.summary_lag_s
    values: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for order, event in enumerate(call.half.meter_events):
        if _counts(event, meter, params["customer"]) and start <= event.timestamp < end and event.received <= horizon:
            bucket = event.timestamp - event.timestamp % step if window else start
            values[bucket].append((event.timestamp, order, _quantity(event, meter)))
    data = [
        {
            "id": f"mtrusg_{meter['id']}_{bucket}",
            "object": "billing.meter_event_summary",
            "aggregated_value": _aggregate(meter, values[bucket]),
            "start_time": bucket,
            "end_time": bucket + step if window else end,
            "livemode": call.half.livemode,
            "meter": meter["id"],
        }
        for bucket in sorted(values, reverse=True)
    ]
    limit = params.get("limit", 10)
    ids = [summary["id"] for summary in data]
    first = ids.index(params["starting_after"]) + 1 if params.get("starting_after") in ids else 0
    url = f"/v1/billing/meters/{meter['id']}/event_summaries"
    shown = data[first : first + limit]
    return {"object": "list", "url": url, "has_more": first + limit < len(data), "data": shown}


def _aggregate(meter: Object, values: list[tuple[int, int, int]]) -> int:
    window = _WINDOWS.get(meter["event_time_window"] or "")
    if window:  # aggregated before it was sent: the newest of a window stands for it
        newest: dict[int, tuple[int, int, int]] = {}
        for value in values:
            newest[value[0] // window] = max(newest.get(value[0] // window, value), value)
        values = list(newest.values())
    formula = meter["default_aggregation"]["formula"]
    if formula == "count":
        return len(values)
    return max(values)[2] if formula == "last" else sum(value for _, _, value in values)


def units(world: World, half: Half) -> dict[str, dict[str, int]]:
    """Everything that counts, as sums: event name → customer → units."""
    process(world, half)
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for meter in _meters(half):
        for event in half.meter_events:
            customer = event.payload.get(meter["customer_mapping"]["event_payload_key"], "")
            if _counts(event, meter, customer):
                found[event.event_name][customer] += _quantity(event, meter)
    return {name: dict(customers) for name, customers in found.items()}


def process(world: World, half: Half) -> None:
    """Look at what was accepted; what is wrong with it becomes its error."""
    for event in half.meter_events:
        if not event.is_processed:
            event.is_processed = True
            event.error = _fault(half, event)


def _fault(half: Half, event: MeterEvent) -> str | None:
    meter = next((m for m in _meters(half) if m["event_name"] == event.event_name), None)
    if meter is None:
        return "no_meter"
    if meter["status"] != "active":
        return "archived_meter"
    customer = event.payload.get(meter["customer_mapping"]["event_payload_key"])
    if customer is None:
        return "meter_event_no_customer_defined"
    found = half.of("customer").get(customer)
    if found is None or found.get("deleted"):
        return "meter_event_customer_not_found"
    value = event.payload.get(meter["value_settings"]["event_payload_key"])
    if value is None:
        return None if meter["default_aggregation"]["formula"] == "count" else "meter_event_value_not_found"
    return None if _WHOLE.fullmatch(value) else "meter_event_invalid_value"


def report_errors(world: World, half: Half) -> list[Object]:
    """One thin event per meter about what turned out not to count since the last report."""
    process(world, half)
    by_meter: dict[str, list[MeterEvent]] = defaultdict(list)
    for event in half.meter_events:
        if event.error is not None and not event.is_reported:
            event.is_reported = True
            by_meter[event.event_name].append(event)
    return [_report(world, half, name, events) for name, events in by_meter.items()]


def _report(world: World, half: Half, event_name: str, events: list[MeterEvent]) -> Object:
    meter = next((m for m in _meters(half) if m["event_name"] == event_name), None)
    codes: dict[str, list[MeterEvent]] = defaultdict(list)
    for event in events:
        codes[event.error or ""].append(event)
    moment = _iso(world.clock.now)
    thin: Object = {
        "id": world.new_id("evt"),
        "object": "v2.core.event",
        "type": "v1.billing.meter.no_meter_found" if meter is None else "v1.billing.meter.error_report_triggered",
        "created": moment,
        "livemode": half.livemode,
        "context": half.account,
        "related_object": None
        if meter is None
        else {"id": meter["id"], "type": "billing.meter", "url": f"/v1/billing/meters/{meter['id']}"},
        "data": {
            "developer_message_summary": f"There is {len(events)} invalid event",
            "reason": {
                "error_count": len(events),
                "error_types": [_error_type(code, some) for code, some in codes.items()],
            },
            "validation_start": moment,
            "validation_end": moment,
        },
    }
    half.of("v2.core.event")[thin["id"]] = thin
    notice: dict[str, Any] = {name: value for name, value in thin.items() if name != "data"}
    world.outbox.append((half, notice))
    world.happened.set()
    return notice


def _error_type(code: str, events: list[MeterEvent]) -> Object:
    samples = [
        {"error_message": f"{code}: {event.identifier}", "request": {"identifier": event.identifier}}
        for event in events[:10]
    ]
    return {"code": code, "error_count": len(events), "sample_errors": samples}


def _iso(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _meters(half: Half) -> list[Object]:
    return list(half.of("billing.meter").values())


def _counts(event: MeterEvent, meter: Object, customer: str) -> bool:
    key = meter["customer_mapping"]["event_payload_key"]
    is_ours = event.event_name == meter["event_name"] and event.payload.get(key) == customer
    return is_ours and event.is_processed and event.error is None and not event.is_canceled


def _quantity(event: MeterEvent, meter: Object) -> int:
    return int(event.payload.get(meter["value_settings"]["event_payload_key"], "1"))


OPERATIONS: Final = (
    Operation("POST", "/v1/billing/meters", "billing.MeterCreateParams", create_meter),
    Operation(
        "GET", "/v1/billing/meters", "billing.MeterListParams", plain("billing.meter", "/v1/billing/meters", "status")
    ),
    Operation("GET", "/v1/billing/meters/{id}", "billing.MeterRetrieveParams", one("billing.meter")),
    Operation("POST", "/v1/billing/meters/{id}", "billing.MeterUpdateParams", update_meter),
    Operation("POST", "/v1/billing/meters/{id}/deactivate", "billing.MeterDeactivateParams", deactivate),
    Operation("POST", "/v1/billing/meters/{id}/reactivate", "billing.MeterReactivateParams", reactivate),
    Operation("GET", "/v1/billing/meters/{id}/event_summaries", "billing.MeterEventSummaryListParams", list_summaries),
    Operation("POST", "/v1/billing/meter_events", "billing.MeterEventCreateParams", create_event),
    Operation(
        "POST", "/v1/billing/meter_event_adjustments", "billing.MeterEventAdjustmentCreateParams", create_adjustment
    ),
)
