"""Usage: a month's figures, trends, breakdowns, the log of requests, receipts, corrections, CSV, what-if.

Under /api/v1/usage, and short under /api/usage. (At the gateway's own origin GET /api/usage without `period` is the
gateway's: what the caller's customer has used of its quota.) All figures are of the caller's half of its project.
"""

from __future__ import annotations

import base64
import csv
import io
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from admin.api import pages
from admin.api.call import Body, Call, Endpoint, Reply, invalid, not_found
from admin.permissions import Permission
from ledger import corrections, usage_figures
from ledger.rating import InvalidPrice, Line, Plan, price_of, total
from ledger.receipt import receipt
from ledger.specs import is_meter_name
from ledger.usage_figures import By, Charge, Event, Month

_PATH: Final = "/api/v1/usage"
_FORMULA: Final = tuple("=+@\t\r\n\uff1d\uff0b\uff0d\uff20")
_MOST_MONTHS: Final = 36
_MOST_CUSTOMERS: Final = 100
_OF_MONTH: Final = frozenset(("period", "customer"))


def _month(given: str | None) -> Month:
    try:
        return usage_figures.month(given, datetime.now(UTC))
    except ValueError:
        raise invalid("period", f"expected a month such as 2027-01, got {given!r:.40}") from None


def _half(call: Call) -> tuple[str, str]:
    return call.caller.project_id, call.caller.mode


async def summary(call: Call) -> Reply:
    """A month: {period, runs, requests, cpuMs, cost, currency, avgDurationMs, byMeter}; cost in minor units."""
    of, customer = _month(call.query.get("period")), call.query.get("customer")
    found = await usage_figures.summary(call.connection, *_half(call), of, customer)
    charges = await usage_figures.charges(call.connection, *_half(call), of, customer_id=customer)
    costs = _by_currency(charges)
    currency = max(costs, key=lambda one: costs[one], default="usd")
    return Reply(
        {
            "period": of.name,
            "runs": found.by_meter.get("runs", 0),
            "requests": found.by_meter.get("requests", 0),
            "cpuMs": found.by_meter.get("cpu_ms", 0),
            "cost": costs.get(currency, 0),
            "currency": currency,
            "costs": costs,
            "avgDurationMs": None if found.average_ms is None else round(found.average_ms, 3),
            "byMeter": found.by_meter,
        }
    )


async def trends(call: Call) -> Reply:
    """The last months, oldest first."""
    given = call.query.get("months", "6")
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:4]) <= _MOST_MONTHS:
        raise invalid("months", f"expected a number from 1 to {_MOST_MONTHS}, got {given!r:.40}")
    now, customer = datetime.now(UTC), call.query.get("customer")
    found = await usage_figures.trends(call.connection, *_half(call), int(given), now, customer)
    return Reply(
        {
            "months": [
                {
                    "period": name,
                    "requests": meters.get("requests", 0),
                    "runs": meters.get("runs", 0),
                    "byMeter": meters,
                }
                for name, meters in found
            ]
        }
    )


async def breakdown(call: Call) -> Reply:
    """A month by day, customer, key or route; `limit` is 100 unless said otherwise."""
    try:
        by = By(call.query.get("by", "day"))
    except ValueError:
        raise invalid("by", f"expected one of {', '.join(By)}") from None
    of = _month(call.query.get("period"))
    limit, offset = pages.limit_of(call.query.get("limit", str(pages.MOST))), pages.offset_of(call.query.get("cursor"))
    customer = call.query.get("customer")
    found = await usage_figures.breakdown(
        call.connection, *_half(call), of, by, customer, limit=limit + 1, offset=offset
    )
    parts = found[:limit]
    return Reply(
        {
            "period": of.name,
            "by": by,
            "data": [
                {
                    "id": part.id or None,
                    "name": part.name or None,
                    "requests": part.by_meter.get("requests", 0),
                    "byMeter": part.by_meter,
                }
                for part in parts
            ],
            "next_cursor": pages.cursor_after(offset + limit) if len(found) > limit else None,
        }
    )


async def export(call: Call) -> Reply:
    """A month as CSV: one row per day, customer, key, route and meter."""
    of = _month(call.query.get("period"))
    rows = await usage_figures.rows_for_export(call.connection, *_half(call), of, call.query.get("customer"))
    return Reply(
        text=_csv(rows),
        content_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="usage-{of.name}.csv"'},
    )


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    written = io.StringIO()
    writer = csv.writer(written)
    columns = ("day", "customer_id", "external_id", "key_id", "route_id", "meter", "quantity", "events")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell("" if row[name] is None else str(row[name])) for name in columns)
    return written.getvalue()


def _cell(value: str) -> str:
    """The value, unless a spreadsheet would take it for a formula: leading blanks and full-width signs count, too."""
    first = value.lstrip(" \u00a0\u3000")[:1]
    is_formula = first in _FORMULA or (first == "-" and not value[1:].isdigit())
    return f"'{value}" if is_formula else value


async def events(call: Call) -> Reply:
    """The log of requests, newest first."""
    limit = pages.limit_of(call.query.get("limit"))
    found = await usage_figures.recent(
        call.connection,
        *_half(call),
        limit + 1,
        before=_before(call.query.get("cursor")),
        customer_id=call.query.get("customer"),
        key_id=call.query.get("key"),
        route_id=call.query.get("route"),
    )
    shown = found[:limit]
    return Reply(
        {"data": [_event(one) for one in shown], "next_cursor": _cursor(shown[-1]) if len(found) > limit else None}
    )


def _event(one: Event) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "at": one.at,
        "customer": one.customer_id,
        "key": one.key_id,
        "route": one.route_id,
        "method": one.method,
        "status": one.status,
        "outcome": one.outcome,
        "meters": one.meters,
        "durationUs": one.duration_us,
        "upstreamUs": one.upstream_us,
        "corrects": None if one.corrects is None else str(one.corrects),
        "actor": one.actor,
        "reason": one.reason,
    }


def _cursor(one: Event) -> str:
    return base64.urlsafe_b64encode(f"{one.at.isoformat()} {one.id.hex}".encode()).decode()


def _before(cursor: str | None) -> tuple[datetime, uuid.UUID] | None:
    if cursor is None:
        return None
    try:
        at, _, event_id = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").partition(" ")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError
        return moment, uuid.UUID(hex=event_id)
    except ValueError:
        raise invalid("cursor", "expected the next_cursor of the page before") from None


def _event_id(call: Call) -> uuid.UUID:
    given = call.params["event"]
    try:
        return uuid.UUID(hex=given)
    except ValueError:
        raise not_found("event", given) from None


async def event(call: Call) -> Reply:
    """The receipt of one event: admitted, settled, stored, corrected, rolled up, sent, seen by Stripe."""
    found = await receipt(call.connection, *_half(call), _event_id(call))
    if found is None:
        raise not_found("event", call.params["event"])
    return Reply(found)


async def void(call: Call) -> Reply:
    """{reason}: the event counts nothing any more."""
    return await _correct(call, None)


async def adjust(call: Call) -> Reply:
    """{meters: {name: quantity}, reason}: the event counts these quantities instead."""
    meters = call.body.get("meters")
    if not isinstance(meters, dict) or not meters:
        raise invalid("meters", 'expected an object of quantities, such as {"tokens": 120}')
    return await _correct(call, meters)


async def _correct(call: Call, wanted: Mapping[str, Any] | None) -> Reply:
    known = {"reason"} if wanted is None else {"reason", "meters"}
    if unknown := sorted(call.body.keys() - known):
        raise invalid(unknown[0], f"unknown field (known: {', '.join(sorted(known))})")
    reason = call.body.get("reason")
    if not isinstance(reason, str):
        raise invalid("reason", "expected text that says why")
    try:
        done = await corrections.correct(
            call.connection, *_half(call), _event_id(call), wanted, actor=call.caller.actor, reason=reason
        )
    except corrections.UnknownEvent:
        raise not_found("event", call.params["event"]) from None
    except corrections.NotCorrected as error:
        raise invalid(error.field, str(error)) from None
    data = {"id": str(done.id), "kind": done.kind, "added": done.added, "effective": done.effective}
    return Reply(data, 201, f"{_PATH}/events/{done.id}")


async def what_if(call: Call) -> Reply:
    """{period?, customer?, tier | plan}: a past month priced again under another tier or plan, beside what it was."""
    if unknown := sorted(call.body.keys() - {"period", "customer", "tier", "plan"}):
        raise invalid(unknown[0], "unknown field (known: customer, period, plan, tier)")
    period, customer = call.body.get("period"), call.body.get("customer")
    for name, value in (("period", period), ("customer", customer)):
        if value is not None and not isinstance(value, str):
            raise invalid(name, "expected text")
    of = _month(period)
    plan = await _plan(call)
    now = await usage_figures.charges(call.connection, *_half(call), of, customer_id=customer)
    then = await usage_figures.charges(call.connection, *_half(call), of, under=plan, customer_id=customer)
    by_change = sorted(zip(now, then, strict=True), key=lambda pair: -abs(pair[1].amount_minor - pair[0].amount_minor))
    return Reply(
        {
            "period": of.name,
            "plan": plan.name,
            "currency": plan.currency,
            "customers": len(then),
            "current": _by_currency(now),
            "whatIf": sum(charge.amount_minor for charge in then),
            "data": [
                {
                    "customer": after.customer_id,
                    "externalId": after.external_id,
                    "currentPlan": before.plan,
                    "current": before.amount_minor,
                    "whatIf": after.amount_minor,
                    "lines": [_line(line) for line in after.lines],
                }
                for before, after in by_change[:_MOST_CUSTOMERS]
            ],
        }
    )


async def _plan(call: Call) -> Plan:
    tier, plan = call.body.get("tier"), call.body.get("plan")
    if (tier is None) == (plan is None):
        raise invalid("tier", "name a tier, or describe a plan")
    if tier is not None:
        known = await usage_figures.plans(call.connection, *_half(call))
        for one in known.values():
            if one.name == tier:
                return one
        raise invalid("tier", f"no {call.caller.mode} tier is called {tier!r:.80}")
    if not isinstance(plan, dict) or plan.keys() - {"currency", "base", "prices"}:
        raise invalid("plan", "expected {currency?, base?, prices: {meter: price}}")
    base, currency = plan.get("base", 0), plan.get("currency", "usd")
    if type(base) is not int or not 0 <= base <= 2**53:
        raise invalid("plan.base", "expected minor units, a whole number of zero or more")
    if not isinstance(currency, str) or not currency.isascii() or not currency.isalpha() or len(currency) != 3:
        raise invalid("plan.currency", "expected a currency code such as usd")
    prices = {}
    given = plan.get("prices", {})
    if not isinstance(given, dict):
        raise invalid("plan.prices", "expected an object of prices")
    for meter, price in given.items():
        if not is_meter_name(meter) or not isinstance(price, dict):
            raise invalid(f"plan.prices.{meter}", "expected a meter's name and a price")
        try:
            prices[meter] = price_of(price)
        except InvalidPrice as error:
            raise invalid(f"plan.prices.{meter}", str(error)) from None
    return Plan("what if", currency.lower(), base, prices, {})


def _line(line: Line) -> dict[str, Any]:
    return {"meter": line.meter, "quantity": line.quantity, "amount": line.amount_minor, "refused": line.refused}


def _by_currency(charges: Sequence[Charge]) -> dict[str, int]:
    costs: Counter[str] = Counter()
    for charge in charges:
        if charge.lines:
            costs[charge.currency] += total(charge.lines)
    return dict(costs)


_EVENTS_QUERY: Final = pages.QUERY | {"customer", "key", "route"}
_READ, _WRITE = Permission.USAGE_READ, Permission.USAGE_WRITE
_LONG: Final = (
    Endpoint("GET", _PATH, summary, _READ, query=_OF_MONTH),
    Endpoint("GET", f"{_PATH}/trends", trends, _READ, query=frozenset(("months", "customer"))),
    Endpoint("GET", f"{_PATH}/breakdown", breakdown, _READ, query=_OF_MONTH | {"by"} | pages.QUERY),
    Endpoint("GET", f"{_PATH}/export", export, _READ, query=_OF_MONTH, produces="text/csv"),
    Endpoint("POST", f"{_PATH}/what-if", what_if, _READ, body=Body.JSON),
    Endpoint("GET", f"{_PATH}/events", events, _READ, query=_EVENTS_QUERY),
    Endpoint("GET", f"{_PATH}/events/{{event}}", event, _READ),
    Endpoint("POST", f"{_PATH}/events/{{event}}/void", void, _WRITE, body=Body.JSON, writes=True, creates=True),
    Endpoint("POST", f"{_PATH}/events/{{event}}/adjust", adjust, _WRITE, body=Body.JSON, writes=True, creates=True),
)
ENDPOINTS: Final = (*_LONG, *(replace(one, path=one.path.replace("/api/v1/", "/api/")) for one in _LONG))
