"""A customer's current subscription: begun, moved to another tier, ended."""

from __future__ import annotations

import asyncpg

from admin.changes import Unfit
from admin.nouns import Scope
from ledger import ids, sql

_SQL = sql.load("admin.customers", "subscriptions.sql")


async def set_tier(
    connection: asyncpg.Connection, scope: Scope, customer_id: str, before: str | None, after: str | None
) -> None:
    """Bring a customer from tier `before` to tier `after` (names; None: no subscription).

    Moving keeps the anchor and the status. Raises Unfit if there is no such tier in this scope.
    """
    if before == after:
        return
    if after is None:
        await connection.execute(_SQL["end"], customer_id)
    elif before is None:
        subscription_id = ids.new_id("subscription")
        done = await connection.execute(
            _SQL["begin"], subscription_id, scope.project_id, scope.mode, customer_id, after
        )
        _refuse_unless_one(done, scope, after)
    else:
        done = await connection.execute(_SQL["move"], scope.project_id, scope.mode, customer_id, after)
        _refuse_unless_one(done, scope, after)


def _refuse_unless_one(done: str, scope: Scope, tier: str) -> None:
    if not done.endswith(" 1"):
        raise Unfit(f"no {scope.mode} tier is called {tier!r}", "tier")
