"""What admission and settlement need to know about one (key, customer, route), worked out once. Pure.

A plan holds the limits that apply, the names of their counters, and nearly all bytes of the Redis commands and of the
answer's headers; a request adds its id and its time. It is good until its quota period ends or a part of it changes
(`generation`), and is remembered beside the key or customer it belongs to.

Which limits: an address's requests/minute on a route without authentication, the tier's requests/minute (per customer), the
key's own, the route's (over all customers), the tier's quota of each meter that the route counts, and how many requests of
the customer (by tier) and of the route may be under way at once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, cast

import orjson

from gateway.limits.calls import AT_DIGITS, AT_DIGITS_FROM, bulk, json_for_format, write_admission
from gateway.limits.decide import LimitFields, limit_fields
from ledger import names
from ledger.periods import period_of
from ledger.specs import StoreFailure

if TYPE_CHECKING:
    from gateway.store.nouns import Customer, Principal, Route, Tier

WINDOW_MS: Final = 60_000
BURST_MINUTES: Final = 5
"""What a burst uses beyond the rate is regained within so many minutes."""


class Window(NamedTuple):
    """A sliding window: at most `limit` requests in any `length_ms`. `name` is what clients see."""

    name: str
    limit: int
    key: str
    length_ms: int = WINDOW_MS


class Quota(NamedTuple):
    """A meter's quota in this period: `limit` None is unlimited, `quantity` what one request holds of it."""

    meter: str
    limit: int | None
    quantity: int
    key: str


class Place(NamedTuple):
    """A limit on what is under way at once: a request takes a place, if one of so many is free, until it is settled."""

    limit: int
    key: str
    is_customers: bool = False


class Priced(NamedTuple):
    """What a meter costs of the spend cap: `price` minor units for each unit beyond `included`."""

    included: int
    price: str
    key: str


class Reserves(Protocol):
    """What is reserved by estimate and known afterwards (gateway.metering.metering.Metering)."""

    @property
    def estimates(self) -> dict[str, int]: ...


class Plan:
    """See the module.

    `admission` is the admit script's call as a format of an id, the id again and a time (`admit_command`); `hold_in` and
    `identity_in` say where in it are what a reservation says after its time, and who it is for. With many keys a request
    costs what it touches of a plan, so what it needs of one is in few pieces, and what plans have in common is kept once.
    `denial` is a reply that refused, with the monotonic second it came; it stands until `denied_until`. `late_event` is
    the event of a count that stands although nobody waits for its verdict any more (b"": it is undone). `seen` is the last
    reply that admitted a request, None before the first, and where the policy has no use for it.
    `metering` is None where all quantities are fixed; else the last of `quotas` are its meters, in its order, with what is
    reserved for them.
    """

    __slots__ = (
        "admission",
        "customer",
        "denial",
        "denied_until",
        "fields",
        "gateway",
        "generation",
        "hold_in",
        "identity_in",
        "is_shadow",
        "late_event",
        "metering",
        "meters",
        "meters_json",
        "mode",
        "period_end",
        "period_start",
        "place_keys",
        "places",
        "policy",
        "priced",
        "principal",
        "quotas",
        "refusal",
        "refused_until",
        "reservations",
        "route",
        "seen",
        "settle_keys",
        "stream",
        "tier",
        "windows",
    )

    generation: int
    principal: Principal | None
    customer: Customer | None
    tier: Tier | None
    route: Route | None
    windows: tuple[Window, ...]
    quotas: tuple[Quota, ...]
    meters: dict[str, int]
    metering: Any
    mode: str
    period_start: int
    period_end: int
    place_keys: tuple[str, ...]
    places: tuple[Place, ...]
    policy: StoreFailure
    priced: tuple[Priced, ...]
    reservations: str
    stream: str
    is_shadow: bool
    settle_keys: bytes
    meters_json: bytes
    admission: bytes
    hold_in: slice
    identity_in: slice
    gateway: str
    fields: LimitFields
    late_event: bytes
    denied_until: float
    denial: Any
    refusal: Any
    refused_until: float
    seen: list[int] | None

    @property
    def identity(self) -> bytes:
        """Who a request of this plan is for, as members of a JSON object."""
        return self.admission[self.identity_in]

    def hold(self, event_id: bytes, at_ms: int) -> bytes:
        """The reservation of a request (JSON)."""
        return b'{"id":"%b","at":%d,%b' % (event_id, at_ms, self.admission[self.hold_in])

    def admit_command(self, event_id: bytes, at_ms: int) -> bytes:
        """The admit script's call for a request; `event_id` has 32 digits."""
        command = self.admission % (event_id, event_id, at_ms)
        if AT_DIGITS_FROM <= at_ms < AT_DIGITS_FROM * 10:
            return command
        length = len(self.hold(event_id, at_ms))  # the clock is off by decades: the format's length is not this one's
        opening = b'\r\n{"id":"%b' % event_id
        usual = length - len(b"%d" % at_ms) + AT_DIGITS
        return command.replace(b"$%d%b" % (usual, opening), b"$%d%b" % (length, opening), 1)


_Value = TypeVar("_Value")


def the_one(value: _Value) -> _Value:
    """The first of equal values: plans of a tier's customers share much, and with many keys memory is what is slow."""
    return cast(_Value, _kept(value))


@lru_cache(4_096, typed=True)
def _kept(value: Any) -> Any:
    return value


def make_plan(
    *,
    generation: int,
    project_id: str,
    mode: str,
    principal: Principal | None,
    customer: Customer | None,
    tier: Tier | None,
    route: Route | None,
    meters: dict[str, int],
    now: float,
    shards: int,
    gateway: str,
    idempotency: str | None = None,
    metering: Reserves | None = None,
    address: str | None = None,
) -> Plan:
    """Work out a plan. `now` is Unix seconds, `gateway` this process's name. `meters` are the quantities one request
    counts, `metering` those that are known afterwards and reserved by estimate.

    `address` is whose requests per minute the route limits by address.
    With `idempotency` (a digest) the plan is for one count only: a second admission of the same digest is answered -1.
    """
    shard = names.shard_of(project_id, customer.id if customer else None, shards)
    owner = customer.id if customer else project_id
    start, end = period_of(customer.anchor if customer else None, datetime.fromtimestamp(now, UTC))
    plan = Plan()
    plan.generation, plan.principal, plan.customer, plan.tier, plan.route = generation, principal, customer, tier, route
    plan.meters = meters
    plan.is_shadow = (tier is not None and tier.is_shadow) or (route is not None and route.spec.shadow)
    plan.policy = route.spec.on_store_failure if route else StoreFailure.CLOSED
    if plan.is_shadow and route is not None:
        plan.policy = StoreFailure.OPEN  # nothing is refused
    plan.metering = metering
    plan.mode = mode
    estimates = {} if metering is None else metering.estimates
    plan.period_start, plan.period_end = the_one(int(start.timestamp())), the_one(int(end.timestamp()))
    plan.reservations, plan.stream = the_one(names.reservations(shard)), the_one(names.usage_stream(shard))
    plan.windows = tuple(_windows(shard, project_id, principal, customer, tier, route, shards, address))
    plan.quotas = tuple(
        Quota(
            meter,
            tier.quotas.get(meter) if tier else None,
            quantity,
            names.quota(shard, f"{mode}:{owner}", meter, plan.period_start),
        )
        for meter, quantity in [*((m, q) for m, q in meters.items() if q), *estimates.items()]
    )
    plan.priced = _priced(plan, shard, f"{mode}:{owner}")
    plan.places = _places(shard, project_id, customer, tier, route, shards)
    plan.place_keys = tuple(place.key for place in plan.places)
    who: dict[str, Any] = {"project": project_id, "mode": mode, "customer": customer.id if customer else None}
    if customer is not None and not customer.is_known:
        who["external"] = customer.external_id
    who["key"] = principal.key_id if principal else None
    who["route"] = route.id if route else None
    identity = json_for_format(who)[1:-1]
    hold: dict[str, Any] = {"gateway": gateway, "meters": meters | estimates}
    hold["hold"] = [[q.key, q.quantity] for q in plan.quotas]
    if plan.places:
        hold["places"] = plan.place_keys
    plan.gateway = gateway
    plan.meters_json = the_one(orjson.dumps(meters)[1:-1])
    plan.settle_keys = the_one(bulk(plan.reservations.encode()) + bulk(plan.stream.encode()))
    write_admission(
        plan, identity, b"," + json_for_format(hold)[1:], idempotency and names.idempotency(shard, idempotency)
    )
    plan.fields = the_one(limit_fields(plan))
    plan.late_event = b""
    plan.denied_until = 0.0
    plan.denial = None
    plan.refusal = None
    plan.refused_until = 0.0
    plan.seen = None
    return plan


def _priced(plan: Plan, shard: int, owner: str) -> tuple[Priced, ...]:
    """All that counts towards the tier's spend cap, if a request of this plan may add to it."""
    tier = plan.tier
    if tier is None or tier.spend_cap_minor is None:
        return ()
    counted = {quota.meter for quota in plan.quotas}
    if counted.isdisjoint(overage.meter for overage in tier.overage):
        return ()
    return tuple(
        Priced(o.included, f"{o.price:f}", names.quota(shard, owner, o.meter, plan.period_start)) for o in tier.overage
    )


def _places(
    shard: int, project_id: str, customer: Customer | None, tier: Tier | None, route: Route | None, shards: int
) -> tuple[Place, ...]:
    if route is None:
        return ()  # what only counts is never under way
    places = []
    if customer is not None and tier is not None and tier.concurrent_requests is not None:
        places.append(Place(tier.concurrent_requests, names.places(shard, customer.id), is_customers=True))
    if route.spec.concurrent_requests is not None:
        of_route = names.shard_of(project_id, None, shards)
        places.append(Place(route.spec.concurrent_requests, names.places(of_route, route.id)))
    return tuple(places)


def _windows(
    shard: int,
    project_id: str,
    principal: Principal | None,
    customer: Customer | None,
    tier: Tier | None,
    route: Route | None,
    shards: int,
    address: str | None,
) -> list[Window]:
    windows = []
    if address is not None and route is not None and route.spec.requests_per_minute_per_ip is not None:
        of_address = names.window(shard, f"{route.id}:{address}")
        windows.append(Window("ip-minute", route.spec.requests_per_minute_per_ip, of_address))
    if tier is not None and tier.requests_per_minute is not None and customer is not None:
        windows += _rate("minute", tier.requests_per_minute, tier.burst, shard, customer.id)
    if principal is not None and principal.requests_per_minute is not None:
        windows.append(Window("key-minute", principal.requests_per_minute, names.window(shard, principal.key_id)))
    if route is not None and route.spec.requests_per_minute is not None:
        of_route = names.shard_of(project_id, None, shards)
        windows += _rate("route-minute", route.spec.requests_per_minute, route.spec.burst, of_route, route.id)
    return windows


def _rate(name: str, per_minute: int, burst: int | None, shard: int, scope: str) -> list[Window]:
    """The windows of a rate: one of a minute; with a burst that much wider, and another that makes it be regained."""
    minute = Window(name, per_minute + (burst or 0), names.window(shard, scope))
    if burst is None:
        return [minute]
    several = names.window(shard, names.burst_scope(scope))
    limit = BURST_MINUTES * per_minute + burst
    return [minute, Window(f"{name}-burst", limit, several, BURST_MINUTES * WINDOW_MS)]
