"""Routes as rows, and as the noun of that name (admin.nouns.Noun)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from admin.changes import Action, Change, Refused, Unfit
from admin.credentials import sealed
from admin.nouns import Scope, Stored, is_same, note
from ledger import ids, sql
from ledger.specs import RouteSpec

NOUN: Final = "route"
IDENTITY: Final = "name"

_SQL = sql.load("admin.routes", "routes.sql")


def normal(spec: RouteSpec, scope: Scope) -> RouteSpec:
    """The one form of all specs that mean the same: methods sorted, each once."""
    return spec.model_copy(update={"methods": tuple(sorted(set(spec.methods)))})


async def page(
    connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None
) -> list[Stored[RouteSpec]]:
    """At most `limit` routes (None: all) with ids below `before`, by descending id."""
    return [_stored(row) for row in await connection.fetch(_SQL["page"], scope.project_id, before, limit)]


async def get(connection: asyncpg.Connection, scope: Scope, object_id: str) -> Stored[RouteSpec] | None:
    """The route of this id, or None if there is none in this project."""
    row = await connection.fetchrow(_SQL["by_id"], scope.project_id, object_id)
    return None if row is None else _stored(row)


async def by_name(
    connection: asyncpg.Connection, scope: Scope, names: list[str] | None = None
) -> Mapping[str, Stored[RouteSpec]]:
    """The routes of these names (None: all), by name."""
    rows = await connection.fetch(_SQL["by_names"], scope.project_id, names)
    return {row["name"]: _stored(row) for row in rows}


async def create(connection: asyncpg.Connection, scope: Scope, spec: RouteSpec, *, actor: str) -> list[Change]:
    """Make a route. Raises Refused if its name or what it matches is taken, or its upstream is not known."""
    spec = normal(spec, scope)
    if await by_name(connection, scope, [spec.name]):
        raise Refused(f"a route is called {spec.name!r} already", "name")
    route_id = ids.new_id("route")
    spec, secret = sealed(spec, route_id, None, scope.vault)
    columns = await _columns(connection, scope, route_id, spec)
    await connection.execute(_SQL["insert"], route_id, scope.project_id, spec.name, *columns, secret)
    return [await note(connection, Action.CREATED, NOUN, scope, route_id, after=spec, actor=actor)]


async def update(
    connection: asyncpg.Connection, scope: Scope, current: Stored[RouteSpec], spec: RouteSpec, *, actor: str
) -> list[Change]:
    """Bring a route to `spec`; returns [] if it is so already. Raises Refused as `create` does."""
    spec, secret = sealed(normal(spec, scope), current.id, current.secret, scope.vault)
    if is_same(spec, current.spec):
        return []
    columns = await _columns(connection, scope, current.id, spec)
    await connection.execute(_SQL["update"], current.id, *columns, secret)
    return [
        await note(connection, Action.UPDATED, NOUN, scope, current.id, before=current.spec, after=spec, actor=actor)
    ]


async def delete(
    connection: asyncpg.Connection, scope: Scope, current: Stored[RouteSpec], *, actor: str
) -> list[Change]:
    """Remove a route."""
    await connection.execute(_SQL["delete"], current.id)
    return [await note(connection, Action.DELETED, NOUN, scope, current.id, before=current.spec, actor=actor)]


async def stand_aside(connection: asyncpg.Connection, route_ids: list[str]) -> None:
    """Let routes that are about to be updated match nothing, so that they can trade places in any order."""
    if route_ids:
        await connection.execute(_SQL["stand_aside"], route_ids)


async def _columns(
    connection: asyncpg.Connection, scope: Scope, route_id: str, spec: RouteSpec
) -> tuple[str, str | None, str, list[str], str]:
    upstream_id = await connection.fetchval(_SQL["upstream_id"], scope.project_id, spec.upstream)
    if upstream_id is None:
        raise Unfit(f"no upstream is called {spec.upstream!r}", "upstream")
    methods = list(spec.methods)
    other = await connection.fetchrow(_SQL["same_match"], spec.host, spec.pattern, methods, route_id)
    if other is not None:
        owner = f"route {other['name']!r}" if other["project_id"] == scope.project_id else "a route of another project"
        raise Refused(f"{spec.serves} is served by {owner} already", "path")
    return upstream_id, spec.host, spec.pattern, methods, spec.model_dump_json()


def _stored(row: asyncpg.Record) -> Stored[RouteSpec]:
    spec = RouteSpec.model_validate_json(row["spec"])
    return Stored(row["id"], row["created_at"], spec, secret=row["secret"])
