"""Checkout sessions: made, listed, expired; completed through the control endpoint, as no browser pays here."""

from __future__ import annotations

from typing import Final

from stripefake.call import Call, Operation, changed, plain, stored
from stripefake.errors import Refusal
from stripefake.subscriptions import begin
from stripefake.world import Object

_DAY_S: Final = 86_400


async def create(call: Call) -> Object:
    params = call.params
    mode = params.get("mode", "payment")
    lines = params.get("line_items") or []
    if mode != "setup" and not lines:
        raise Refusal("Missing required param: line_items.", param="line_items", code="parameter_missing")
    total = 0
    for number, line in enumerate(lines):
        where = f"line_items[{number}]"
        if "price" not in line:
            continue
        price = call.half.get("price", line["price"], f"{where}[price]")
        is_metered = bool(price["recurring"]) and price["recurring"]["usage_type"] == "metered"
        if is_metered and "quantity" in line:
            raise Refusal("Quantity cannot be set for metered prices.", param=f"{where}[quantity]")
        if not is_metered and "quantity" not in line:
            raise Refusal(f"Missing required param: {where}[quantity].", param=f"{where}[quantity]")
        if (mode == "subscription") < bool(price["recurring"]):
            raise Refusal("Recurring prices need mode subscription.", param="mode")
        total += (price["unit_amount"] or 0) * line.get("quantity", 0)
    if "customer" in params:
        call.half.get("customer", params["customer"], "customer")
    expires = params.get("expires_at", call.now + _DAY_S)
    if not call.now + 1800 <= expires <= call.now + _DAY_S:
        raise Refusal("expires_at must be from 30 minutes to 24 hours from now.", param="expires_at")
    session = stored(
        call,
        "checkout.session",
        "cs_live" if call.half.livemode else "cs_test",
        {
            "amount_total": total,
            "cancel_url": params.get("cancel_url"),
            "client_reference_id": params.get("client_reference_id"),
            "customer": params.get("customer"),
            "customer_email": params.get("customer_email"),
            "expires_at": expires,
            "mode": mode,
            "payment_status": "unpaid",
            "status": "open",
            "subscription": None,
            "success_url": params.get("success_url"),
        },
    )
    session["url"] = f"https://checkout.stripe.com/c/pay/{session['id']}"
    call.half.of("checkout lines")[session["id"]] = {
        "lines": lines,
        "subscription_data": params.get("subscription_data") or {},
    }
    return session


async def retrieve(call: Call) -> Object:
    session = call.half.get("checkout.session", call.ids[0])
    if session["status"] == "open" and session["expires_at"] <= call.now:
        _expire(call, session)
    return session


async def expire(call: Call) -> Object:
    session = call.half.get("checkout.session", call.ids[0])
    if session["status"] != "open":
        raise Refusal("Only open sessions can be expired.", param="session")
    return _expire(call, session)


def _expire(call: Call, session: Object) -> Object:
    session.update(status="expired", url=None)
    call.world.emit(call.half, "checkout.session.expired", session)
    return session


def complete(call: Call, session_id: str) -> Object:
    """The customer pays: what the control endpoint does in place of a browser. Raises Refusal."""
    session = call.half.get("checkout.session", session_id)
    if session["status"] != "open" or session["expires_at"] <= call.now:
        raise Refusal("This session is not open any more.", param="session")
    if session["customer"] is None and session["mode"] == "subscription":
        email = session["customer_email"]
        session["customer"] = stored(call, "customer", "cus", {"email": email}, event="customer.created")["id"]
    if session["mode"] == "subscription":
        kept = call.half.of("checkout lines")[session_id]
        items = [{name: line[name] for name in ("price", "quantity") if name in line} for line in kept["lines"]]
        session["subscription"] = begin(call, session["customer"], items, kept["subscription_data"])["id"]
    changed(call, session, {"status": "complete", "payment_status": "paid", "url": None})
    call.world.emit(call.half, "checkout.session.completed", session)
    return session


OPERATIONS: Final = (
    Operation("POST", "/v1/checkout/sessions", "checkout.SessionCreateParams", create),
    Operation(
        "GET",
        "/v1/checkout/sessions",
        "checkout.SessionListParams",
        plain("checkout.session", "/v1/checkout/sessions", "customer", "status", "subscription"),
    ),
    Operation("GET", "/v1/checkout/sessions/{id}", "checkout.SessionRetrieveParams", retrieve),
    Operation("POST", "/v1/checkout/sessions/{id}/expire", "checkout.SessionExpireParams", expire),
)
