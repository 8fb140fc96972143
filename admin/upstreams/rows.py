"""Upstreams as rows, and as the noun of that name (admin.nouns.Noun)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from admin.changes import Action, Change, Refused
from admin.credentials import sealed
from admin.nouns import Scope, Stored, is_same, note
from ledger import ids, sql
from ledger.specs import UpstreamSpec

NOUN: Final = "upstream"
IDENTITY: Final = "name"

_SQL = sql.load("admin.upstreams", "upstreams.sql")


def normal(spec: UpstreamSpec, scope: Scope) -> UpstreamSpec:
    """The spec itself: no two mean the same."""
    return spec


async def page(
    connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None
) -> list[Stored[UpstreamSpec]]:
    """At most `limit` upstreams (None: all) with ids below `before`, by descending id."""
    return [_stored(row) for row in await connection.fetch(_SQL["page"], scope.project_id, before, limit)]


async def get(connection: asyncpg.Connection, scope: Scope, object_id: str) -> Stored[UpstreamSpec] | None:
    """The upstream of this id, or None if there is none in this project."""
    row = await connection.fetchrow(_SQL["by_id"], scope.project_id, object_id)
    return None if row is None else _stored(row)


async def by_name(
    connection: asyncpg.Connection, scope: Scope, names: list[str] | None = None
) -> Mapping[str, Stored[UpstreamSpec]]:
    """The upstreams of these names (None: all), by name."""
    rows = await connection.fetch(_SQL["by_names"], scope.project_id, names)
    return {row["name"]: _stored(row) for row in rows}


async def create(connection: asyncpg.Connection, scope: Scope, spec: UpstreamSpec, *, actor: str) -> list[Change]:
    """Make an upstream. Raises Refused if the name is taken, Unfit if its secret cannot be kept."""
    if await by_name(connection, scope, [spec.name]):
        raise Refused(f"an upstream is called {spec.name!r} already", "name")
    upstream_id = ids.new_id("upstream")
    spec, secret = sealed(spec, upstream_id, None, scope.vault)
    await connection.execute(_SQL["insert"], upstream_id, scope.project_id, spec.name, spec.model_dump_json(), secret)
    return [await note(connection, Action.CREATED, NOUN, scope, upstream_id, after=spec, actor=actor)]


async def update(
    connection: asyncpg.Connection, scope: Scope, current: Stored[UpstreamSpec], spec: UpstreamSpec, *, actor: str
) -> list[Change]:
    """Bring an upstream to `spec`; returns [] if it is so already."""
    spec, secret = sealed(spec, current.id, current.secret, scope.vault)
    if is_same(spec, current.spec):
        return []
    await connection.execute(_SQL["update"], current.id, spec.model_dump_json(), secret)
    return [
        await note(connection, Action.UPDATED, NOUN, scope, current.id, before=current.spec, after=spec, actor=actor)
    ]


async def delete(
    connection: asyncpg.Connection, scope: Scope, current: Stored[UpstreamSpec], *, actor: str
) -> list[Change]:
    """Remove an upstream. Raises Refused while a route uses it."""
    users = [row["name"] for row in await connection.fetch(_SQL["routes_of"], current.id)]
    if users:
        raise Refused(f"upstream {current.spec.name!r} is used by: {', '.join(users)}")
    await connection.execute(_SQL["delete"], current.id)
    return [await note(connection, Action.DELETED, NOUN, scope, current.id, before=current.spec, actor=actor)]


def _stored(row: asyncpg.Record) -> Stored[UpstreamSpec]:
    spec = UpstreamSpec.model_validate_json(row["spec"])
    return Stored(row["id"], row["created_at"], spec, secret=row["secret"])
