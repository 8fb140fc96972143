"""/operator: the installation as its operator sees it: projects, what is waiting, what could not be stored."""

from __future__ import annotations

from functools import partial
from typing import Final

from admin.permissions import Permission
from admin.projects import rows
from admin.web.page import Answer, Html, Page, View
from admin.web.paging import shown
from ledger import sql

_SQL = sql.load("admin.web", "operator.sql")


async def overview(view: View) -> Answer:
    page = await shown(view, partial(rows.page, view.connection))
    ids = [project.id for project in page.items]
    usage = {row["project_id"]: row for row in await view.connection.fetch(_SQL["usage"], ids)}
    return Html(
        "operator.html",
        {
            "page": page,
            "usage": usage,
            "members": {row["project_id"]: row["members"] for row in await view.connection.fetch(_SQL["members"], ids)},
            "health": await view.connection.fetchrow(_SQL["health"]),
            "dead": await view.connection.fetch(_SQL["dead_letters"]),
            "mail": await view.connection.fetch(_SQL["mail"]),
        },
    )


PAGES: Final = (Page("/operator", overview, Permission.PLATFORM, for_operator=True),)
