"""/dashboard/usage/what-if: a month priced again under another tier, beside what it costs as things are. Changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from admin.nouns import Scope
from admin.permissions import Permission
from admin.web import figures
from admin.web.page import Answer, Html, Page, View
from ledger import usage_figures
from ledger.periods import months_after

_MONTHS: Final = 12
_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One customer: what the month costs under the tier it has (`plan`, None for none) and under the other one."""

    customer_id: str
    name: str
    plan: str | None
    now: int
    currency: str
    then: int


@dataclass(frozen=True, slots=True)
class Compared:
    """All customers of a half in a month. Amounts in minor units; `now` by currency, as tiers may differ in it."""

    customers: int
    now: dict[str, int]
    then: int
    currency: str
    rows: tuple[Row, ...]


async def compare(
    connection: asyncpg.Connection, scope: Scope, of: usage_figures.Month, tier_id: str
) -> Compared | None:
    """The month under the tier; None if there is no such tier. `rows` are those that would change most."""
    half = (scope.project_id, scope.mode)
    plan = (await usage_figures.plans(connection, *half)).get(tier_id)
    if plan is None:
        return None
    before = await usage_figures.charges(connection, *half, of)
    after = await usage_figures.charges(connection, *half, of, under=plan)
    totals: Counter[str] = Counter()
    rows = []
    for one, other in zip(before, after, strict=True):
        totals[one.currency] += one.amount_minor
        name = one.external_id or one.customer_id
        rows.append(Row(one.customer_id, name, one.plan, one.amount_minor, one.currency, other.amount_minor))
    rows.sort(key=lambda row: (-abs(row.then - row.now), row.name))
    now = {currency: amount for currency, amount in totals.items() if amount} or {plan.currency: 0}
    return Compared(len(rows), now, sum(row.then for row in rows), plan.currency, tuple(rows[:_SHOWN]))


async def show(view: View) -> Answer:
    now = datetime.now(UTC)
    start, _ = figures.parse_month(view.request.query.get("period"), now)
    this, _ = figures.month_of(now)
    plans = await usage_figures.plans(view.connection, view.here.id, view.scope.mode)
    tier = view.request.query.get("tier", "")
    found: Any = None
    if tier in plans:
        month = usage_figures.month(f"{start:%Y-%m}", now)
        found = await view.figure("what if", compare, month, tier)
    return Html(
        "what_if.html",
        {
            "period": f"{start:%Y-%m}",
            "periods": [(f"{m:%Y-%m}", f"{m:%B %Y}") for m in (months_after(this, -n) for n in range(_MONTHS))],
            "month": f"{start:%B %Y}",
            "tiers": [("", "Choose a tier"), *sorted((tier_id, plan.name) for tier_id, plan in plans.items())],
            "tier": tier if found else "",
            "plan": plans[tier].name if found else "",
            "found": found,
        },
    )


PAGES: Final = (Page("/dashboard/usage/what-if", show, Permission.USAGE_READ),)
