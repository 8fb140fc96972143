"""/dashboard/customers: who is served, with which tier, and how much of it is used."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from admin.api.call import not_found
from admin.api.resources import etag, validated
from admin.customers import rows
from admin.nouns import Stored, fields_of
from admin.permissions import Permission
from admin.tiers import rows as tiers
from admin.web import figures
from admin.web.page import Answer, Html, Page, Redirect, View
from admin.web.paging import shown
from ledger import sql
from ledger.periods import period_of
from ledger.specs import CustomerSpec, TierSpec
from ledger.usage import usage_in_period

_SQL = sql.load("admin.web", "customers.sql")
_SHOWN: Final = 25


async def list_(view: View) -> Answer:
    wanted = view.request.query.get("q", "").strip()[:200]
    if wanted:
        return Html("customers.html", {"page": None, "found": await _search(view, wanted), "wanted": wanted})
    page = await shown(view, partial(rows.page, view.connection, view.scope))
    return Html("customers.html", {"page": page, "found": page.items, "wanted": ""})


async def _search(view: View, wanted: str) -> list[Stored[CustomerSpec]]:
    """Customers whose own id or e-mail address begins so."""
    escaped = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found = await view.connection.fetch(
        _SQL["search"], view.here.id, view.scope.mode, f"{escaped}%", f"{escaped.lower()}%", _SHOWN
    )
    named = await rows.by_name(view.connection, view.scope, [row["external_id"] for row in found])
    return list(named.values())


async def new(view: View) -> Answer:
    return Html("customer_form.html", {"customer": None, "tiers": await _tiers(view)})


async def create(view: View) -> Answer:
    body = {"external_id": view.text("external_id"), **_fields(view)}
    spec = validated(CustomerSpec, {**body, "modes": [view.scope.mode]})
    changes = await rows.create(view.connection, view.scope, spec, actor=view.actor)
    return Redirect(f"/dashboard/customers/{changes[-1].object_id}", f"Customer {spec.external_id} is made.")


async def _found(view: View) -> Stored[CustomerSpec]:
    customer = await rows.get(view.connection, view.scope, view.params["id"])
    if customer is None:
        raise not_found("customer", view.params["id"])
    return customer


async def show(view: View) -> Answer:
    customer = await _found(view)
    all_tiers = await tiers.by_name(view.connection, view.scope)
    name = customer.spec.tier or next((tier.spec.name for tier in all_tiers.values() if tier.spec.default), None)
    tier = all_tiers[name].spec if name is not None and name in all_tiers else None
    subscription = customer.more["subscription"]
    anchor = None if subscription is None else datetime.fromisoformat(subscription["anchor_at"])
    start, end = period_of(anchor, datetime.now(UTC))
    used = await usage_in_period(view.connection, view.here.id, view.scope.mode, customer.id, start, end)
    return Html(
        "customer.html",
        {
            "customer": customer,
            "tier": tier,
            "start": start,
            "end": end,
            "meters": _meters(used, tier),
            "tiers": await _tiers(view),
            "keys": await view.connection.fetch(_SQL["keys"], customer.id),
            "is_default": customer.spec.tier is None,
            "etag": etag(fields_of(customer.spec)),
        },
    )


def _meters(used: dict[str, int], tier: TierSpec | None) -> list[dict[str, Any]]:
    """Each meter that was used or is limited, with what is left."""
    quotas = {} if tier is None else tier.quotas
    names = sorted({*used, *quotas, figures.REQUESTS}, key=lambda meter: (meter != figures.REQUESTS, meter))
    found = []
    for name in names:
        quota = quotas.get(name)
        limit = None if quota is None else quota.limit
        amount = used.get(name, 0)
        percent = None if limit is None else 100 if limit == 0 else min(100, round(100 * amount / limit))
        found.append(
            {"meter": name, "used": amount, "limit": limit, "percent": percent, "hard": quota is None or quota.hard}
        )
    return found


async def update(view: View) -> Answer:
    customer = await _found(view)
    view.check_unchanged(fields_of(customer.spec))
    body = {"external_id": customer.spec.external_id, **_fields(view), "modes": [view.scope.mode]}
    await rows.update(view.connection, view.scope, customer, validated(CustomerSpec, body), actor=view.actor)
    return Redirect(f"/dashboard/customers/{customer.id}", "The customer is changed.")


async def delete_page(view: View) -> Answer:
    customer = await _found(view)
    keys = await view.connection.fetch(_SQL["keys"], customer.id)
    return Html(
        "customer_delete.html", {"customer": customer, "keys": [key for key in keys if key["revoked_at"] is None]}
    )


async def delete(view: View) -> Answer:
    customer = await _found(view)
    await rows.delete(view.connection, view.scope, customer, actor=view.actor)
    return Redirect("/dashboard/customers", f"Customer {customer.spec.external_id} is deleted.")


def _fields(view: View) -> dict[str, Any]:
    return {
        "name": view.text("name") or None,
        "email": view.text("email") or None,
        "tier": view.text("tier") or None,
    }


async def _tiers(view: View) -> list[tuple[str, str]]:
    found = await tiers.by_name(view.connection, view.scope)
    default = next((tier.spec for tier in found.values() if tier.spec.default), None)
    first = f"The default tier ({default.title})" if default else "None: no default tier is set"
    return [("", first), *((tier.spec.name, str(tier.spec.title)) for tier in found.values())]


PAGES: Final = (
    Page("/dashboard/customers", list_, Permission.CUSTOMERS_READ),
    Page("/dashboard/customers/new", new, Permission.CUSTOMERS_WRITE, create, once=True),
    Page("/dashboard/customers/{id}", show, Permission.CUSTOMERS_READ, update, Permission.CUSTOMERS_WRITE),
    Page("/dashboard/customers/{id}/delete", delete_page, Permission.CUSTOMERS_WRITE, delete),
)
