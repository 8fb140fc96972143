"""/dashboard/tiers: plans with their limits. A change is shown first, with how many customers it touches."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Final

from admin.api.call import not_found
from admin.api.resources import etag, tried, validated
from admin.nouns import Stored, fields_of
from admin.permissions import Permission
from admin.tiers import rows
from admin.tiers.affected import affected
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong
from admin.web.paging import shown
from ledger import sql
from ledger.specs import TierSpec

_SQL = sql.load("admin.web", "tiers.sql")
_BLANK_ROWS: Final = 2
_MOST_ROWS: Final = 20
_WHOLE = re.compile(r"-?\d{1,15}", re.ASCII)
_QUOTED = re.compile(r'\s*"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """One line of the form, as text."""

    meter: str = ""
    limit: str = ""
    beyond: str = "hard"
    price: str = ""


async def list_(view: View) -> Answer:
    page = await shown(view, partial(rows.page, view.connection, view.scope))
    counted = await view.connection.fetch(_SQL["customers"], view.here.id, view.scope.mode)
    customers = {row["tier_id"]: row["customers"] for row in counted}
    without = await view.connection.fetchval(_SQL["without"], view.here.id, view.scope.mode)
    return Html("tiers.html", {"page": page, "customers": customers, "without": without})


async def new(view: View) -> Answer:
    return Html(
        "tier_form.html",
        {"tier": None, "quotas": _quota_rows(view, None), "features": "", "preview": None, "etag": None},
    )


async def create(view: View) -> Answer:
    spec = validated(TierSpec, {"name": view.text("name"), **_fields(view), "modes": [view.scope.mode]})
    await rows.create(view.connection, view.scope, spec, actor=view.actor)
    return Redirect("/dashboard/tiers", f"Tier {spec.name} is made.")


async def _found(view: View) -> Stored[TierSpec]:
    tier = await rows.get(view.connection, view.scope, view.params["id"])
    if tier is None:
        raise not_found("tier", view.params["id"])
    return tier


async def edit(view: View) -> Answer:
    tier = await _found(view)
    return Html("tier_form.html", _form(view, tier, None))


def _form(view: View, tier: Stored[TierSpec], preview: dict[str, Any] | None) -> dict[str, Any]:
    features = "\n".join(f"{_shown_name(name)}: {_shown(value)}" for name, value in tier.spec.features.items())
    return {
        "tier": tier,
        "quotas": _quota_rows(view, tier),
        "features": features,
        "preview": preview,
        "etag": etag(fields_of(tier.spec)),
    }


async def update(view: View) -> Answer:
    """Two steps: what would change and for how many, then the change."""
    tier = await _found(view)
    view.check_unchanged(fields_of(tier.spec))
    body = {**fields_of(tier.spec), **_fields(view), "modes": [view.scope.mode]}
    spec = validated(TierSpec, body)
    if view.text("do") == "save":
        await rows.update(view.connection, view.scope, tier, spec, actor=view.actor)
        return Redirect("/dashboard/tiers", f"Tier {spec.name} is changed. Gateways follow within a second.")
    changes = await tried(
        view.connection, partial(rows.update, view.connection, view.scope, tier, spec, actor=view.actor)
    )
    own = next((change for change in changes if change.object_id == tier.id), None)
    others = [change.name for change in changes if change.object_id != tier.id]
    preview = {
        "fields": own.fields if own else {},
        "affected": await affected(view.connection, view.scope, tier),
        "others": others,
    }
    return Html("tier_form.html", _form(view, tier, preview))


async def delete_page(view: View) -> Answer:
    tier = await _found(view)
    return Html("tier_delete.html", {"tier": tier, "affected": await affected(view.connection, view.scope, tier)})


async def delete(view: View) -> Answer:
    tier = await _found(view)
    await rows.delete(view.connection, view.scope, tier, actor=view.actor)
    return Redirect("/dashboard/tiers", f"Tier {tier.spec.name} is deleted.")


def _fields(view: View) -> dict[str, Any]:
    """The form as the API would take it, without the name. Raises Wrong."""
    return {
        "title": view.text("title") or None,
        "price_minor": _minor(view.text("price") or "0", "price"),
        "currency": view.text("currency", "usd").lower(),
        "billing_interval": view.text("billing_interval", "month"),
        "requests_per_minute": view.text("requests_per_minute").replace(",", "") or None,
        "burst": view.text("burst").replace(",", "") or None,
        "shadow": "shadow" in view.form,
        "concurrent_requests": view.text("concurrent_requests").replace(",", "") or None,
        "spend_cap_minor": _minor(view.text("spend_cap"), "spend_cap") if view.text("spend_cap") else None,
        "trial_days": view.text("trial_days") or 0,
        "quotas": _quotas(view),
        "features": _features(view),
        "default": "default" in view.form,
        "popular": "popular" in view.form,
        "upgrade_url": view.text("upgrade_url") or None,
    }


def _quotas(view: View) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in _sent_rows(view):
        if not row.meter:
            if row.limit:
                raise Wrong(quotas=f"which meter is limited to {row.limit}?")
            continue
        if row.meter in found:
            raise Wrong(quotas=f"{row.meter} is there twice")
        quota: dict[str, Any] = {"limit": row.limit.replace(",", "") or None, "hard": row.beyond == "hard"}
        if row.beyond != "hard" and row.price:
            quota["overage_price"] = row.price
        found[row.meter] = quota
    return found


def _sent_rows(view: View) -> list[QuotaRow]:
    columns = [
        [str(v).strip() for v in view.form.getall(f"quota_{n}", [])] for n in ("meter", "limit", "beyond", "price")
    ]
    return [QuotaRow(*row) for row in zip(*columns, strict=False)][:_MOST_ROWS]


def _quota_rows(view: View, tier: Stored[TierSpec] | None) -> list[QuotaRow]:
    """The lines that the form shows: what was sent, else what is stored, and some blank ones."""
    if view.form:
        found = [row for row in _sent_rows(view) if row != QuotaRow()]
    elif tier is not None:
        found = [
            QuotaRow(
                meter,
                "" if quota.limit is None else str(quota.limit),
                "hard" if quota.hard else "soft",
                "" if quota.overage_price is None else str(quota.overage_price),
            )
            for meter, quota in tier.spec.quotas.items()
        ]
    else:
        found = [QuotaRow("requests")]
    return found + [QuotaRow()] * _BLANK_ROWS


def _features(view: View) -> dict[str, Any]:
    """Lines such as `seats: 5`. What would be read as something else stands in quotes, as in JSON: `plan: "5"`."""
    found: dict[str, Any] = {}
    for line in view.raw("features").replace("\r\n", "\n").split("\n"):
        if line.strip():
            quoted = _QUOTED.match(line)
            name, value = (
                (quoted[0], line[quoted.end() :].partition(":")[2])
                if quoted
                else line.split(":", 1)
                if ":" in line
                else (line, "")
            )
            found[_unquoted(name.strip(" "))] = _value(value.strip(" ") or "yes")
    return found


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if _QUOTED.fullmatch(text) else text
    except ValueError:
        return text


def _value(text: str) -> bool | int | str:
    if _QUOTED.fullmatch(text):
        return _unquoted(text)
    if text.lower() in ("yes", "true"):
        return True
    if text.lower() in ("no", "false"):
        return False
    return int(text) if _WHOLE.fullmatch(text) else text


def _shown(value: bool | int | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    is_plain = value and value == value.strip() and _value(value) == value and value.isprintable()
    return value if is_plain else json.dumps(value)


def _shown_name(name: str) -> str:
    is_plain = name == name.strip() and ":" not in name and not name.startswith('"') and name.isprintable()
    return name if is_plain else json.dumps(name)


def _minor(text: str, field: str) -> int:
    """49.90 as 4990."""
    try:
        amount = Decimal(text.replace(",", "")) * 100
    except InvalidOperation:
        raise Wrong(**{field: f"expected an amount such as 49 or 49.90, got {text!r:.40}"}) from None
    if not amount.is_finite() or amount != int(amount) or not 0 <= amount <= 2**53:
        raise Wrong(**{field: "expected an amount of at least 0 with two digits at most after the point"})
    return int(amount)


PAGES: Final = (
    Page("/dashboard/tiers", list_, Permission.TIERS_READ),
    Page("/dashboard/tiers/new", new, Permission.TIERS_WRITE, create, once=True),
    Page("/dashboard/tiers/{id}", edit, Permission.TIERS_READ, update, Permission.TIERS_WRITE),
    Page("/dashboard/tiers/{id}/delete", delete_page, Permission.TIERS_WRITE, delete),
)
