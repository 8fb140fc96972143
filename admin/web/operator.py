"""/operator: the installation as its operator sees it: projects, what is waiting, what could not be stored."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import asyncpg
import orjson

from admin.permissions import Permission
from admin.projects import rows
from admin.web.page import Answer, Html, Page, View
from admin.web.paging import shown
from ledger import sql

_SQL = sql.load("admin.web", "operator.sql")


async def overview(view: View) -> Answer:
    page = await shown(view, partial(rows.page, view.connection))
    ids = [project.id for project in page.items]
    counted = await view.remembered.get(("usage of projects", *ids), lambda: view.connection.fetch(_SQL["usage"], ids))
    usage = {row["project_id"]: row for row in counted}
    return Html(
        "operator.html",
        {
            "page": page,
            "usage": usage,
            "members": {row["project_id"]: row["members"] for row in await view.connection.fetch(_SQL["members"], ids)},
            "health": await view.remembered.get("health", lambda: view.connection.fetchrow(_SQL["health"])),
            "books": _books(await view.connection.fetchrow(_SQL["reconciliation"])),
            "dead": await view.connection.fetch(_SQL["dead_letters"]),
            "mail": await view.connection.fetch(_SQL["mail"]),
        },
    )


def _books(row: asyncpg.Record | None) -> dict[str, Any] | None:
    """The last comparison of all books that hold usage, and by how much any two of them differ."""
    if row is None:
        return None
    return {
        "at": row["ended_at"],
        "drift": {name: units for name, units in orjson.loads(row["drift"]).items() if units},
    }


PAGES: Final = (Page("/operator", overview, Permission.PLATFORM, for_operator=True),)
