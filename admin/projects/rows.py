"""Projects as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from admin.changes import Action, Change, Refused, record
from admin.store import writing
from ledger import ids, sql
from ledger.specs import ProjectSpec

_SQL = sql.load("admin.projects", "projects.sql")


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant. `kind` is saas or store."""

    id: str
    name: str
    kind: str
    created_at: datetime


async def by_name(connection: asyncpg.Connection, name: str) -> Project | None:
    """The project of this name, or None."""
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in name):
        return None  # PostgreSQL cannot even be asked
    row = await connection.fetchrow(_SQL["by_name"], name)
    return None if row is None else Project(**row)


async def get(connection: asyncpg.Connection, project_id: str) -> Project | None:
    """The project of this id, or None."""
    row = await connection.fetchrow(_SQL["by_id"], project_id)
    return None if row is None else Project(**row)


async def page(connection: asyncpg.Connection, before: str | None, limit: int | None) -> list[Project]:
    """At most `limit` projects (None: all) with ids below `before`, by descending id."""
    return [Project(**row) for row in await connection.fetch(_SQL["page"], before, limit)]


async def create(connection: asyncpg.Connection, spec: ProjectSpec, *, actor: str) -> Change:
    """Make a project from its name and kind. Raises Refused if the name is taken."""
    async with writing(connection):
        if await by_name(connection, spec.name) is not None:
            raise Refused(f"a project is called {spec.name!r} already", "name")
        project_id = ids.new_id("project")
        await connection.execute(_SQL["insert"], project_id, spec.name, spec.kind)
        after = {"name": spec.name, "kind": spec.kind}
        change = Change(Action.CREATED, "project", spec.name, project_id, project_id, None, None, after)
        return await record(connection, change, actor=actor)


async def rename(connection: asyncpg.Connection, project_id: str, name: str, *, actor: str) -> None:
    """Give a project another name. Raises Refused if it is taken."""
    async with writing(connection):
        project = await get(connection, project_id)
        assert project is not None  # the caller found it
        if project.name == name:
            return
        if await by_name(connection, name) is not None:
            raise Refused(f"a project is called {name!r} already", "name")
        await connection.execute(_SQL["rename"], project_id, name)
        before, after = {"name": project.name}, {"name": name}
        change = Change(Action.UPDATED, "project", name, project_id, project_id, None, dict(before), dict(after))
        await record(connection, change, actor=actor)


async def counts(connection: asyncpg.Connection, project_id: str) -> dict[str, int]:
    """How many keys, customers, tiers, routes and members go when it goes."""
    row = await connection.fetchrow(_SQL["counts"], project_id)
    assert row is not None
    return dict(row)


async def delete(connection: asyncpg.Connection, project_id: str, *, actor: str) -> None:
    """Remove a project with all that is declared in it: its keys stop working at once. Usage and audit stay."""
    async with writing(connection):
        project = await get(connection, project_id)
        assert project is not None  # the caller found it
        before = {"name": project.name, "kind": project.kind}
        change = Change(Action.DELETED, "project", project.name, project_id, project_id, None, dict(before), None)
        await record(connection, change, actor=actor)
        await connection.execute(_SQL["drop_subscriptions"], project_id)
        await connection.execute(_SQL["delete"], project_id)


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """When owners and admins are told that a customer nears a quota: at these percentages of it."""

    percents: tuple[int, ...]
    by_mail: bool


async def alert_settings(connection: asyncpg.Connection, project_id: str) -> AlertSettings:
    """The settings of a project that exists."""
    row = await connection.fetchrow(_SQL["alert_settings"], project_id)
    assert row is not None
    return AlertSettings(tuple(row["alert_percents"]), row["alerts_by_mail"])


async def set_alerts(
    connection: asyncpg.Connection, project_id: str, percents: Sequence[int], *, by_mail: bool, actor: str
) -> None:
    """Set when and how a project is told."""
    async with writing(connection):
        project, before = await get(connection, project_id), await alert_settings(connection, project_id)
        assert project is not None  # the caller found it
        after = AlertSettings(tuple(percents), by_mail)
        if after == before:
            return
        await connection.execute(_SQL["set_alerts"], project_id, list(percents), by_mail)
        old = {"alert_percents": before.percents, "alerts_by_mail": before.by_mail}
        new = {"alert_percents": after.percents, "alerts_by_mail": after.by_mail}
        change = Change(Action.UPDATED, "project", project.name, project_id, project_id, None, old, new)
        await record(connection, change, actor=actor)
