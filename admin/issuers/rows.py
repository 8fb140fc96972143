"""Token issuers as rows, and as the noun of that name (admin.nouns.Noun)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from admin.changes import Action, Change, Refused
from admin.nouns import Scope, Stored, is_same, note
from ledger import ids, sql
from ledger.specs import IssuerSpec

NOUN: Final = "issuer"
IDENTITY: Final = "name"

_SQL = sql.load("admin.issuers", "issuers.sql")


def normal(spec: IssuerSpec, scope: Scope) -> IssuerSpec:
    """The one form of all specs that mean the same in this scope."""
    return spec.model_copy(update={"mode": scope.mode})


async def page(
    connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None
) -> list[Stored[IssuerSpec]]:
    """At most `limit` issuers (None: all) with ids below `before`, by descending id."""
    return [_stored(row) for row in await connection.fetch(_SQL["page"], scope.project_id, scope.mode, before, limit)]


async def get(connection: asyncpg.Connection, scope: Scope, object_id: str) -> Stored[IssuerSpec] | None:
    """The issuer of this id, or None if there is none in this scope."""
    row = await connection.fetchrow(_SQL["by_id"], scope.project_id, scope.mode, object_id)
    return None if row is None else _stored(row)


async def by_name(
    connection: asyncpg.Connection, scope: Scope, names: list[str] | None = None
) -> Mapping[str, Stored[IssuerSpec]]:
    """The issuers of these names (None: all), by name."""
    rows = await connection.fetch(_SQL["by_names"], scope.project_id, scope.mode, names)
    return {row["name"]: _stored(row) for row in rows}


async def create(connection: asyncpg.Connection, scope: Scope, spec: IssuerSpec, *, actor: str) -> list[Change]:
    """Make an issuer. Raises Refused if the project has one of this name, or for the same tokens, in either mode."""
    spec = normal(spec, scope)
    await _refuse_taken(connection, scope, "", spec)
    issuer_id = ids.new_id("issuer")
    await connection.execute(
        _SQL["insert"], issuer_id, scope.project_id, spec.name, spec.issuer, spec.model_dump_json()
    )
    return [await note(connection, Action.CREATED, NOUN, scope, issuer_id, after=spec, actor=actor)]


async def update(
    connection: asyncpg.Connection, scope: Scope, current: Stored[IssuerSpec], spec: IssuerSpec, *, actor: str
) -> list[Change]:
    """Bring an issuer to `spec`; returns [] if it is so already. Raises Refused as `create` does."""
    spec = normal(spec, scope)
    if is_same(spec, current.spec):
        return []
    await _refuse_taken(connection, scope, current.id, spec)
    await connection.execute(_SQL["update"], current.id, spec.issuer, spec.model_dump_json())
    return [
        await note(connection, Action.UPDATED, NOUN, scope, current.id, before=current.spec, after=spec, actor=actor)
    ]


async def delete(
    connection: asyncpg.Connection, scope: Scope, current: Stored[IssuerSpec], *, actor: str
) -> list[Change]:
    """Remove an issuer: its tokens are refused from now on."""
    await connection.execute(_SQL["delete"], current.id)
    return [await note(connection, Action.DELETED, NOUN, scope, current.id, before=current.spec, actor=actor)]


async def _refuse_taken(connection: asyncpg.Connection, scope: Scope, issuer_id: str, spec: IssuerSpec) -> None:
    other = await connection.fetchrow(_SQL["other"], scope.project_id, spec.name, spec.issuer, issuer_id)
    if other is not None:
        field = "name" if other["name"] == spec.name else "issuer"
        raise Refused(f"there is a {other['mode']} issuer {other['name']!r} for the same {field} already", field)


def _stored(row: asyncpg.Record) -> Stored[IssuerSpec]:
    return Stored(row["id"], row["created_at"], IssuerSpec.model_validate_json(row["spec"]))
