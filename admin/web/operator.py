"""/operator: the installation as its operator sees it: projects, what is waiting, what could not be stored."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

import asyncpg
import orjson

from admin.permissions import Permission
from admin.projects import rows
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong
from admin.web.paging import shown
from ledger import dead_letters, sql

_LETTERS: Final = 50
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
            "dead": await dead_letters.dead_letters(view.connection, limit=_LETTERS),
            "mail": await view.connection.fetch(_SQL["mail"]),
        },
    )


async def replay(view: View) -> Answer:
    """Try dead letters again: those that are good now are stored, the others stay with their reason."""
    ids = [str(one) for one in view.form.getall("id", []) if dead_letters.parsed(str(one)) is not None][:_LETTERS]
    if not ids:
        raise Wrong(form="Which of them shall be tried again?")
    done = await dead_letters.replay(view.connection, ids, time.time_ns() // 1_000_000)
    good = sum(one.is_done for one in done)
    why = next((str(one.reason) for one in done if not one.is_done), "")
    return Redirect("/operator", f"{good} of {len(ids)} are done.{f' Not done: {why}' if why else ''}")


def _books(row: asyncpg.Record | None) -> dict[str, Any] | None:
    """The last comparison of all books that hold usage, and by how much any two of them differ."""
    if row is None:
        return None
    return {
        "at": row["ended_at"],
        "drift": {name: units for name, units in orjson.loads(row["drift"]).items() if units},
    }


PAGES: Final = (Page("/operator", overview, Permission.PLATFORM, replay, for_operator=True),)
