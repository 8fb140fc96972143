"""The gateway's nouns, made without a database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from gateway.limits.plan import Plan, make_plan
from gateway.metering.metering import Metering
from gateway.store.compile import make_route
from gateway.store.nouns import Customer, Principal, Route, Tier
from ledger.specs import RouteSpec, UpstreamSpec

NOW: Final = datetime(2026, 3, 15, 12, tzinfo=UTC)
PROJECT: Final = "prj_acme"


def tier(per_minute: int | None = None, /, **quotas: int | None) -> Tier:
    return Tier("tier_free", "free", per_minute, dict(quotas))


def customer(plan: Tier | None = None, /, **different: Any) -> Customer:
    fields: dict[str, Any] = {"id": "cus_ada", "external_id": "ada", "tier": plan, "anchor": None, "is_known": True}
    return Customer(**(fields | different))


def principal(**different: Any) -> Principal:
    fields: dict[str, Any] = {
        "key_id": "key_1",
        "project_id": PROJECT,
        "mode": "live",
        "kind": "sk",
        "customer": None,
        "scopes": frozenset(),
        "requests_per_minute": None,
        "allowed_origins": (),
        "allowed_ips": (),
        "expires_at": None,
        "is_revoked": False,
    }
    return Principal(**(fields | different))


def route(path: str = "/api/*", name: str = "api", **spec: Any) -> Route:
    return make_route(
        f"rte_{name}",
        PROJECT,
        "ups_1",
        RouteSpec(name=name, path=path, upstream="up", **spec),
        UpstreamSpec(name="up", targets=("http://127.0.0.1:1",)),  # type: ignore[arg-type]
    )


def plan(
    plan_tier: Tier | None = None,
    *,
    who: Customer | None = None,
    key: Principal | None = None,
    on: Route | None = None,
    meters: dict[str, int] | None = None,
    now: datetime = NOW,
    idempotency: str | None = None,
    metering: Metering | None = None,
) -> Plan:
    """The plan of a customer with `plan_tier`, unless `who` says otherwise."""
    who = who or (customer(plan_tier) if plan_tier else None)
    return make_plan(
        generation=1,
        project_id=PROJECT,
        mode="live",
        principal=key,
        customer=who,
        tier=plan_tier or (who.tier if who else None),
        route=on,
        meters={"requests": 1} if meters is None else meters,
        now=now.timestamp(),
        shards=2,
        gateway="gw-1",
        idempotency=idempotency,
        metering=metering,
    )
