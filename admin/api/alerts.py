"""/api/v1/alerts: who came near a quota or spend cap lately, and when and how the project is told."""

from __future__ import annotations

from typing import Annotated, Any, Final

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from admin.api import pages
from admin.api.call import Body, Call, Endpoint, Reply
from admin.api.resources import check_match, tagged, validated
from admin.permissions import Permission
from admin.projects import rows as projects
from ledger import sql

_PATH: Final = "/api/v1/alerts"
SPEND: Final = "$spend"
"""The meter of an alert about a spend cap; its figures are minor units."""

_SQL = sql.load("admin.api", "alerts.sql")


class AlertSettings(BaseModel):
    """When owners and admins are told, in percent of a quota or spend cap, and whether by mail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    percents: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(max_length=10)]
    by_mail: bool = True


async def recent(
    connection: asyncpg.Connection, project_id: str, mode: str, before: str | None, limit: int
) -> list[asyncpg.Record]:
    """The alerts of one half of a project with ids below `before`, the newest first."""
    found: list[asyncpg.Record] = await connection.fetch(_SQL["recent"], project_id, mode, before, limit)
    return found


def _alert(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": row["id"],
        "at": row["at"],
        "customer": row["customer_id"],
        "name": row["customer"],
        "kind": "spend_cap" if row["meter"] == SPEND else "quota",
        "meter": None if row["meter"] == SPEND else row["meter"],
        "percent": row["percent"],
        "used": row["used"],
        "limit": row["quota"],
    }


async def list_(call: Call) -> Reply:
    """Who came near a quota or spend cap, the newest first."""
    limit = pages.limit_of(call.query.get("limit"))
    before = pages.before_of(call.query.get("cursor"))
    rows = await recent(call.connection, call.caller.project_id, call.caller.mode, before, limit + 1)
    cursor = pages.cursor_of(rows[limit - 1]["id"]) if len(rows) > limit else None
    return Reply({"data": [_alert(row) for row in rows[:limit]], "next_cursor": cursor})


async def _settings(call: Call) -> dict[str, Any]:
    found = await projects.alert_settings(call.connection, call.caller.project_id)
    return {"percents": found.percents, "by_mail": found.by_mail}


async def settings(call: Call) -> Reply:
    """When and how the project is told, with its ETag."""
    return tagged(await _settings(call))


async def update(call: Call) -> Reply:
    """Replace what is named; with If-Match only if nobody else has changed it since."""
    current = await _settings(call)
    check_match(call, current)
    wanted = validated(AlertSettings, {**current, **call.body})
    await projects.set_alerts(
        call.connection,
        call.caller.project_id,
        sorted(set(wanted.percents)),
        by_mail=wanted.by_mail,
        actor=call.caller.actor,
    )
    return tagged(await _settings(call))


ENDPOINTS: Final = (
    Endpoint("GET", _PATH, list_, Permission.USAGE_READ, query=pages.QUERY),
    Endpoint("GET", f"{_PATH}/settings", settings, Permission.PROJECT_READ),
    Endpoint(
        "PATCH",
        f"{_PATH}/settings",
        update,
        Permission.PROJECT_UPDATE,
        body=Body.JSON,
        model=AlertSettings,
        writes=True,
        matches=True,
    ),
)
