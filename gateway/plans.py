"""The plans of callers (gateway.limits.plan), made once and remembered beside the key, customer or route they are for.

A plan is good until its period ends or a part of it changes. Bound: one for each key and route in use; of a route without
authentication, one for each address, and 16,384 of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.auth.strangers import network_of
from gateway.limits.plan import Plan, make_plan
from gateway.metering.metering import fixed_meters, metering_of

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.exchange import Exchange
    from gateway.memory import Caller
    from gateway.store.nouns import Customer, Principal, Route, Tier

_MOST_ADDRESSES: Final = 16_384


def plan_at(gw: Gateway, caller: Caller, now: float) -> Plan:
    """The plan of a caller at a later moment (Unix seconds), when its quota period may be another."""
    plan = caller.plan
    assert plan.route is not None
    who = (plan.principal, plan.customer, plan.tier)
    return plan_of(gw, plan.generation, plan.route, plan.mode, *who, now, is_websocket=caller.is_websocket)


def plan_of(
    gw: Gateway,
    generation: int,
    route: Route,
    mode: str,
    principal: Principal | None,
    customer: Customer | None,
    tier: Tier | None,
    now: float,
    *,
    is_websocket: bool,
) -> Plan:
    """The remembered plan of (key, customer, tier, route), or a new one."""
    holder: Customer | Principal | Route = customer or principal or route
    key = (principal.key_id if principal else None, tier.id if tier else None, route.id, is_websocket)
    plan: Plan | None = holder.plans.get(key)
    if (
        plan is None
        or plan.route is not route
        or plan.principal is not principal
        or plan.tier is not tier
        or plan.period_end <= now
    ):
        plan = make_plan(
            generation=generation,
            project_id=route.project_id,
            mode=mode,
            principal=principal,
            customer=customer,
            tier=tier,
            route=route,
            meters=fixed_meters(route.spec),
            metering=metering_of(route.spec, tier.quotas if tier else {}, is_websocket=is_websocket),
            now=now,
            shards=gw.shards,
            gateway=gw.name,
        )
        holder.plans[key] = plan
    return plan


def plan_for_address(
    gw: Gateway, generation: int, route: Route, ex: Exchange, now: float, *, is_websocket: bool
) -> Plan:
    """The plan of anybody at one address on a route without authentication."""
    address = network_of(ex.client.sender(ex.fields).address)
    plan: Plan | None = route.plans.get((address, is_websocket))
    if plan is None or plan.period_end <= now:
        plan = make_plan(
            generation=generation,
            project_id=route.project_id,
            mode="live",
            principal=None,
            customer=None,
            tier=None,
            route=route,
            meters=fixed_meters(route.spec),
            metering=metering_of(route.spec, {}, is_websocket=is_websocket),
            now=now,
            shards=gw.shards,
            gateway=gw.name,
            address=address,
        )
        if len(route.plans) >= _MOST_ADDRESSES:  # they are made again when needed; what counts is in Redis
            route.plans.clear()
        route.plans[address, is_websocket] = plan
    return plan
