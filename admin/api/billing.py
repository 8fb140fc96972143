"""/api/v1/billing: what is told to Stripe for the caller's half of its project, and how the books compare."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import orjson

from admin.api import pages
from admin.api.call import Body, Call, Endpoint, Reply, invalid, not_found
from admin.changes import Action, Change, record
from admin.customers import rows as customers
from admin.permissions import Permission
from ledger import sql
from ledger.billing import billed
from ledger.specs import is_meter_name

_PATH: Final = "/api/v1/billing"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SQL: Final = sql.load("admin.api", "billing.sql")


def _half(call: Call) -> tuple[str, str]:
    return call.caller.project_id, call.caller.mode


def _known(body: Mapping[str, Any], *names: str) -> None:
    if unknown := sorted(body.keys() - set(names)):
        raise invalid(unknown[0], f"unknown field (known: {', '.join(names)})")


def _moment(body: Mapping[str, Any], name: str) -> datetime | None:
    given = body.get(name)
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            raise ValueError
    except (TypeError, ValueError):
        raise invalid(name, "expected a moment such as 2027-01-01T00:00:00Z") from None
    return moment


async def _note(call: Call, action: Action, noun: str, object_id: str, after: dict[str, Any] | None) -> None:
    change = Change(action, noun, object_id, object_id, call.caller.project_id, call.caller.mode, None, after)
    await record(call.connection, change, actor=call.caller.actor)


async def status(call: Call) -> Reply:
    """What is connected and billed, and entries by state."""
    return Reply(await billed.status(call.connection, *_half(call)))


async def connect(call: Call) -> Reply:
    """{account?}: bill through a connected account, or without one through the platform's own.

    For the platform's keys alone: nothing proves yet that an account is the project's own (Connect will), and a project that
    could name any would send its usage to somebody else's. The operator connects projects by `tollgate billing connect`.
    """
    _known(call.body, "account")
    account = call.body.get("account")
    try:
        await billed.connect_stripe(call.connection, *_half(call), account)
    except (asyncpg.CheckViolationError, asyncpg.DataError):
        raise invalid("account", "expected a connected account (acct_…), or null for the platform's own") from None
    await _note(call, Action.UPDATED, "stripe_account", account or "platform", {"account": account})
    return await status(call)


async def disconnect(call: Call) -> Reply:
    """Nothing more is sent."""
    await billed.disconnect_stripe(call.connection, *_half(call))
    await _note(call, Action.DELETED, "stripe_account", "stripe", None)
    return Reply(status=204)


async def bill(call: Call) -> Reply:
    """{meter, event_name?, since?}: a meter is billed from now on, or from a moment of the past 34 days."""
    _known(call.body, "meter", "event_name", "since")
    meter = call.body.get("meter")
    if not isinstance(meter, str) or not is_meter_name(meter):
        raise invalid("meter", "expected a meter's name")
    name = call.body.get("event_name", meter)
    if not isinstance(name, str) or not 1 <= len(name) <= 100 or not name.isprintable():
        raise invalid("event_name", "expected 1 to 100 characters")
    since = _moment(call.body, "since") or datetime.now(UTC)
    try:
        one = await billed.bill_meter(call.connection, *_half(call), meter, name, since)
    except billed.NotBilled as error:
        raise invalid("since", str(error)) from None
    data = {"meter": one.meter, "event_name": one.event_name, "since": one.since, "until": one.until}
    shown = {"meter": one.meter, "event_name": one.event_name, "since": one.since.isoformat()}
    await _note(call, Action.CREATED, "billed_meter", meter, shown)
    return Reply(data, 201)


async def stop(call: Call) -> Reply:
    """{meter, until}: a meter is not billed from a moment to come on."""
    _known(call.body, "meter", "until")
    meter, until = call.body.get("meter"), _moment(call.body, "until")
    if not isinstance(meter, str):
        raise invalid("meter", "expected a meter's name")
    if until is None:
        raise invalid("until", "expected a moment such as 2027-01-01T00:00:00Z")
    try:
        ended = await billed.stop_billing(call.connection, *_half(call), meter, until)
    except billed.NotBilled as error:
        raise invalid("until", str(error)) from None
    await _note(call, Action.UPDATED, "billed_meter", meter, {"meter": meter, "until": ended.isoformat()})
    return Reply({"meter": meter, "until": ended})


async def link(call: Call) -> Reply:
    """{customer, stripe_customer}: a customer, by its external id, is this Stripe customer."""
    _known(call.body, "customer", "stripe_customer")
    customer, theirs = call.body.get("customer"), call.body.get("stripe_customer")
    if not isinstance(customer, str) or not isinstance(theirs, str):
        raise invalid("customer", "expected customer and stripe_customer, both text")
    found = (await customers.by_name(call.connection, call.caller.scope, [customer])).get(customer)
    if found is None:
        raise not_found("customer", customer)
    try:
        await billed.link_customer(call.connection, *_half(call), found.id, theirs)
    except (asyncpg.CheckViolationError, asyncpg.DataError):
        raise invalid("stripe_customer", "expected a Stripe customer (cus_…)") from None
    await _note(call, Action.UPDATED, "stripe_customer", found.id, {"stripe_customer": theirs})
    return Reply({"customer": customer, "id": found.id, "stripe_customer": theirs})


async def reconciliations(call: Call) -> Reply:
    """The last reports, with this half's figures of each."""
    limit, before = pages.limit_of(call.query.get("limit")), pages.before_of(call.query.get("cursor"))
    project_id, mode = _half(call)
    ended = None if before is None else _ended(before)
    rows = await call.connection.fetch(_SQL["reconciliations"], project_id, ended, limit + 1)
    data = []
    for row in rows[:limit]:
        report = orjson.loads(row["report"])
        figures = [one for one in report["figures"] if (one["project_id"], one["mode"]) == (project_id, mode)]
        data.append(
            {
                "at": row["ended_at"],
                "period": report["period"],
                "leftOut": report["leftOut"],
                "figures": figures,
                "agrees": all(one["events"] == one["hourly"] == one["daily"] for one in figures)
                and all(one["sent"] == one["stripe"] for one in figures if one["stripe"] is not None),
            }
        )
    cursor = pages.cursor_of(f"us_{_us(rows[limit - 1]['ended_at'])}") if len(rows) > limit else None
    return Reply({"data": data, "next_cursor": cursor})


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _ended(cursor: str) -> datetime:
    """The moment in a cursor. Raises Denied."""
    number = cursor.removeprefix("us_")
    if not number.isdecimal() or len(number) > 16:
        raise invalid("cursor", "expected the next_cursor of the page before")
    return _EPOCH + timedelta(microseconds=int(number))


_READ, _WRITE = Permission.BILLING_READ, Permission.BILLING_WRITE
ENDPOINTS: Final = (
    Endpoint("GET", _PATH, status, _READ),
    Endpoint("PUT", f"{_PATH}/account", connect, _WRITE, body=Body.OPTIONAL_JSON, writes=True, platform_only=True),
    Endpoint("DELETE", f"{_PATH}/account", disconnect, _WRITE, writes=True),
    Endpoint("POST", f"{_PATH}/meters", bill, _WRITE, body=Body.JSON, writes=True, creates=True),
    Endpoint("POST", f"{_PATH}/meters/stop", stop, _WRITE, body=Body.JSON, writes=True, creates=True),
    Endpoint("POST", f"{_PATH}/customers", link, _WRITE, body=Body.JSON, writes=True, creates=True),
    Endpoint("GET", f"{_PATH}/reconciliations", reconciliations, _READ, query=pages.QUERY),
)
