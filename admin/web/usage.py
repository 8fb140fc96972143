"""/dashboard/usage: a month by day, by customer, key and route; the last requests. CSV is the API's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from admin.permissions import Permission
from admin.web import figures
from admin.web.page import Answer, Html, Page, View
from ledger.periods import months_after

_MONTHS: Final = 12
RECENT: Final = 25


async def show(view: View) -> Answer:
    now = datetime.now(UTC)
    start, end = figures.parse_month(view.request.query.get("period"), now)
    this, _ = figures.month_of(now)
    known = await view.figure("meters", figures.meters, months_after(this, -_MONTHS))
    meter = view.request.query.get("meter", figures.REQUESTS)
    meter = meter if meter in known else figures.REQUESTS
    points = await view.figure("days", figures.days, meter, start, end)
    shares = {}
    for by in ("customer", "key", "route"):
        shares[by] = await view.figure("shares", figures.shares, by, meter, start, end)
    return Html(
        "usage.html",
        {
            "period": f"{start:%Y-%m}",
            "periods": [(f"{m:%Y-%m}", f"{m:%B %Y}") for m in (months_after(this, -n) for n in range(_MONTHS))],
            "meter": meter,
            "meters": known,
            "points": points,
            "most": figures.most(points),
            "total": sum(point.value for point in points),
            "shares": shares,
            "is_older": _before(view) is not None,
            "recent": await figures.recent(view.connection, view.scope, _before(view), RECENT),
        },
    )


def _before(view: View) -> datetime | None:
    try:
        at = datetime.fromisoformat(view.request.query.get("before", ""))
    except ValueError:
        return None
    return at if at.tzinfo is not None and 2000 <= at.year < 9000 else None


PAGES: Final = (Page("/dashboard/usage", show, Permission.USAGE_READ),)
