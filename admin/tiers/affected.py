"""Who a change of a tier touches: its subscribers, and everybody without a subscription if it is the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from admin.nouns import Scope, Stored
from ledger import sql
from ledger.specs import TierSpec

NAMED: Final = 10
"""How many are named."""

_SQL = sql.load("admin.tiers", "affected.sql")


@dataclass(frozen=True, slots=True)
class Named:
    """A customer by id and what people call them."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Affected:
    """How many, and the first NAMED of them. `past` are subscriptions that ended: they keep a tier from being deleted."""

    subscribed: int
    by_default: int
    past: int
    first: tuple[Named, ...]

    @property
    def customers(self) -> int:
        """All of them."""
        return self.subscribed + self.by_default


async def affected(connection: asyncpg.Connection, scope: Scope, tier: Stored[TierSpec]) -> Affected:
    """Whom a change of the tier, as it is stored, touches. Three questions at most, each of a bounded number of rows."""
    counts = await connection.fetchrow(_SQL["counts"], scope.project_id, scope.mode, tier.id, tier.spec.default)
    assert counts is not None
    rows = list(await connection.fetch(_SQL["first_subscribed"], tier.id, NAMED))
    if counts["by_default"] and len(rows) < NAMED:
        rows += await connection.fetch(_SQL["first_by_default"], scope.project_id, scope.mode, NAMED - len(rows))
    first = tuple(Named(row["id"], row["name"] or row["external_id"] or row["id"]) for row in rows)
    return Affected(counts["subscribed"], counts["by_default"], counts["past"], first)


async def represented(connection: asyncpg.Connection, scope: Scope, tier: Stored[TierSpec]) -> dict[str, Any]:
    """The same as JSON."""
    found = await affected(connection, scope, tier)
    first = [{"id": one.id, "name": one.name} for one in found.first]
    return {
        "customers": found.customers,
        "subscribed": found.subscribed,
        "by_default": found.by_default,
        "first": first,
    }
