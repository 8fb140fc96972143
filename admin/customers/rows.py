"""Customers as rows, and as the noun of that name (admin.nouns.Noun)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from admin.changes import Action, Change, Refused
from admin.customers.subscriptions import set_tier
from admin.nouns import Scope, Stored, is_same, note
from ledger import ids, sql
from ledger.specs import CustomerSpec

NOUN: Final = "customer"
IDENTITY: Final = "external_id"
SEEN: Final = "seen"

_SQL = sql.load("admin.customers", "customers.sql")
_PAGE, _ONE, _NAMED = (f"{_SQL['select']} {_SQL[which]}" for which in ("of_page", "of_id", "of_names"))


def normal(spec: CustomerSpec, scope: Scope) -> CustomerSpec:
    """The one form of all specs that mean the same in this scope: e-mail in lower case."""
    email = None if spec.email is None else spec.email.lower()
    return spec.model_copy(update={"email": email, "modes": (scope.mode,)})


async def page(
    connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None
) -> list[Stored[CustomerSpec]]:
    """At most `limit` customers (None: all) with ids below `before`, by descending id."""
    rows = await connection.fetch(_PAGE, scope.project_id, scope.mode, before, limit)
    return [_stored(row, scope) for row in rows]


async def get(connection: asyncpg.Connection, scope: Scope, object_id: str) -> Stored[CustomerSpec] | None:
    """The customer of this id, or None if there is none in this scope."""
    row = await connection.fetchrow(_ONE, scope.project_id, scope.mode, object_id)
    return None if row is None else _stored(row, scope)


async def by_name(
    connection: asyncpg.Connection, scope: Scope, names: list[str] | None = None
) -> Mapping[str, Stored[CustomerSpec]]:
    """The customers of these external ids (None: all), by external id."""
    rows = await connection.fetch(_NAMED, scope.project_id, scope.mode, names)
    return {row["external_id"]: _stored(row, scope) for row in rows}


async def create(connection: asyncpg.Connection, scope: Scope, spec: CustomerSpec, *, actor: str) -> list[Change]:
    """Make a customer, with a subscription if a tier is given. Raises Refused if it exists or there is no such tier."""
    spec = normal(spec, scope)
    if existing := await by_name(connection, scope, [spec.external_id]):
        raise Refused(
            f"there is a {scope.mode} customer {spec.external_id!r} already: {existing[spec.external_id].id}",
            "external_id",
        )
    customer_id = ids.customer_id_for(scope.project_id, scope.mode, spec.external_id)
    await _refuse_taken_email(connection, scope, customer_id, spec)
    await connection.execute(
        _SQL["insert"], customer_id, scope.project_id, scope.mode, spec.external_id, spec.name, spec.email
    )
    await set_tier(connection, scope, customer_id, None, spec.tier)
    return [await note(connection, Action.CREATED, NOUN, scope, customer_id, after=spec, actor=actor)]


async def update(
    connection: asyncpg.Connection, scope: Scope, current: Stored[CustomerSpec], spec: CustomerSpec, *, actor: str
) -> list[Change]:
    """Bring a customer to `spec`; returns [] if it is so already.

    A tier that the spec does not mention stays; one that it sets to None ends the subscription. Raises Refused if there
    is no such tier or the e-mail address is another customer's.
    """
    spec = normal(spec, scope)
    if "tier" not in spec.model_fields_set:
        spec = spec.model_copy(update={"tier": current.spec.tier})
    if is_same(spec, current.spec) and current.more["origin"] != SEEN:
        return []
    await _refuse_taken_email(connection, scope, current.id, spec)
    await connection.execute(_SQL["update"], current.id, spec.name, spec.email)
    await set_tier(connection, scope, current.id, current.spec.tier, spec.tier)
    return [
        await note(connection, Action.UPDATED, NOUN, scope, current.id, before=current.spec, after=spec, actor=actor)
    ]


async def delete(
    connection: asyncpg.Connection, scope: Scope, current: Stored[CustomerSpec], *, actor: str
) -> list[Change]:
    """Remove a customer with its subscriptions and keys. What it used stays in the ledger."""
    await connection.execute(_SQL["delete"], current.id)
    return [await note(connection, Action.DELETED, NOUN, scope, current.id, before=current.spec, actor=actor)]


async def _refuse_taken_email(
    connection: asyncpg.Connection, scope: Scope, customer_id: str, spec: CustomerSpec
) -> None:
    if spec.email is not None:
        other = await connection.fetchval(
            _SQL["other_with_email"], scope.project_id, scope.mode, spec.email, customer_id
        )
        if other is not None:
            raise Refused(f"{spec.email} is the e-mail address of {scope.mode} customer {other!r}", "email")


def _stored(row: asyncpg.Record, scope: Scope) -> Stored[CustomerSpec]:
    spec = CustomerSpec(
        external_id=row["external_id"], name=row["name"], email=row["email"], tier=row["tier"], modes=(scope.mode,)
    )
    subscription = (
        None
        if row["status"] is None
        else {
            "status": row["status"],
            "anchor_at": row["anchor_at"].isoformat(),
            "trial_ends_at": None if row["trial_ends_at"] is None else row["trial_ends_at"].isoformat(),
        }
    )
    return Stored(row["id"], row["created_at"], spec, {"origin": row["origin"], "subscription": subscription})
