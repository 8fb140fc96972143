"""Tiers as rows, and as the noun of that name (admin.nouns.Noun)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import asyncpg
import orjson

from admin.changes import Action, Change, Refused
from admin.nouns import Scope, Stored, is_same, note
from ledger import ids, sql
from ledger.specs import QuotaSpec, TierSpec

NOUN: Final = "tier"
IDENTITY: Final = "name"

_SQL = sql.load("admin.tiers", "tiers.sql")
_PAGE, _ONE, _NAMED, _DEFAULT = (
    f"{_SQL['select']} {_SQL[which]}" for which in ("of_page", "of_id", "of_names", "of_default_but")
)


def normal(spec: TierSpec, scope: Scope) -> TierSpec:
    """The one form of all specs that mean the same in this scope: title filled in, decimals without padding."""
    quotas = {
        meter: quota
        if quota.overage_price is None
        else quota.model_copy(update={"overage_price": Decimal(format(quota.overage_price.normalize(), "f"))})
        for meter, quota in sorted(spec.quotas.items())
    }
    return spec.model_copy(update={"title": spec.title or spec.name, "quotas": quotas, "modes": (scope.mode,)})


async def page(
    connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None
) -> list[Stored[TierSpec]]:
    """At most `limit` tiers (None: all) with ids below `before`, by descending id."""
    rows = await connection.fetch(_PAGE, scope.project_id, scope.mode, before, limit)
    return [_stored(row, scope) for row in rows]


async def get(connection: asyncpg.Connection, scope: Scope, object_id: str) -> Stored[TierSpec] | None:
    """The tier of this id, or None if there is none in this scope."""
    row = await connection.fetchrow(_ONE, scope.project_id, scope.mode, object_id)
    return None if row is None else _stored(row, scope)


async def by_name(
    connection: asyncpg.Connection, scope: Scope, names: list[str] | None = None
) -> Mapping[str, Stored[TierSpec]]:
    """The tiers of these names (None: all), by name."""
    rows = await connection.fetch(_NAMED, scope.project_id, scope.mode, names)
    return {row["name"]: _stored(row, scope) for row in rows}


async def create(connection: asyncpg.Connection, scope: Scope, spec: TierSpec, *, actor: str) -> list[Change]:
    """Make a tier. Raises Refused if the name is taken."""
    spec = normal(spec, scope)
    if await by_name(connection, scope, [spec.name]):
        raise Refused(f"a {scope.mode} tier is called {spec.name!r} already", "name")
    changes = await _take_default(connection, scope, spec, actor=actor)
    tier_id = ids.new_id("tier")
    await connection.execute(_SQL["insert"], tier_id, scope.project_id, scope.mode, spec.name, *_columns(spec))
    await _write_quotas(connection, tier_id, {}, spec.quotas)
    changes.append(await note(connection, Action.CREATED, NOUN, scope, tier_id, after=spec, actor=actor))
    return changes


async def update(
    connection: asyncpg.Connection, scope: Scope, current: Stored[TierSpec], spec: TierSpec, *, actor: str
) -> list[Change]:
    """Bring a tier to `spec`; returns [] if it is so already."""
    spec = normal(spec, scope)
    if is_same(spec, current.spec):
        return []
    changes = await _take_default(connection, scope, spec, actor=actor)
    if _columns(spec) != _columns(current.spec):
        await connection.execute(_SQL["update"], current.id, *_columns(spec))
    await _write_quotas(connection, current.id, current.spec.quotas, spec.quotas)
    changes.append(
        await note(connection, Action.UPDATED, NOUN, scope, current.id, before=current.spec, after=spec, actor=actor)
    )
    return changes


async def delete(
    connection: asyncpg.Connection, scope: Scope, current: Stored[TierSpec], *, actor: str
) -> list[Change]:
    """Remove a tier. Raises Refused while a subscription refers to it."""
    counted = await connection.fetchrow(_SQL["subscriptions"], current.id)
    assert counted is not None
    if counted["total"]:
        raise Refused(
            f"tier {current.spec.name!r} ({scope.mode}) has {counted['current']} current and"
            f" {counted['total'] - counted['current']} past subscriptions; move the customers to another tier,"
            " or keep it: what past subscriptions refer to is not deleted"
        )
    await connection.execute(_SQL["delete"], current.id)
    return [await note(connection, Action.DELETED, NOUN, scope, current.id, before=current.spec, actor=actor)]


async def _take_default(connection: asyncpg.Connection, scope: Scope, spec: TierSpec, *, actor: str) -> list[Change]:
    """If `spec` is to be the default, the tier that was it until now stops being it."""
    if not spec.default:
        return []
    changes = []
    for row in await connection.fetch(_DEFAULT, scope.project_id, scope.mode, spec.name):
        tier = _stored(row, scope)
        after = tier.spec.model_copy(update={"default": False})
        changes += await update(connection, scope, tier, after, actor=actor)
    return changes


async def _write_quotas(
    connection: asyncpg.Connection, tier_id: str, before: dict[str, QuotaSpec], after: dict[str, QuotaSpec]
) -> None:
    for meter in before.keys() - after.keys():
        await connection.execute(_SQL["delete_quota"], tier_id, meter)
    for meter, quota in after.items():
        if before.get(meter) != quota:
            await connection.execute(_SQL["put_quota"], tier_id, meter, quota.limit, quota.hard, quota.overage_price)


def _columns(spec: TierSpec) -> tuple[Any, ...]:
    return (
        spec.title,
        spec.price_minor,
        spec.currency,
        spec.billing_interval,
        spec.requests_per_minute,
        spec.concurrent_requests,
        spec.spend_cap_minor,
        spec.trial_days,
        orjson.dumps(spec.features).decode(),
        spec.default,
        spec.popular,
        spec.burst,
        spec.shadow,
        spec.upgrade_url,
    )


def _stored(row: asyncpg.Record, scope: Scope) -> Stored[TierSpec]:
    values = dict(row)
    object_id, created_at = values.pop("id"), values.pop("created_at")
    values["features"] = orjson.loads(values["features"])
    values["quotas"] = orjson.loads(values["quotas"])
    return Stored(object_id, created_at, normal(TierSpec(**values), scope))
