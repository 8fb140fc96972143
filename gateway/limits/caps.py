"""How many requests this process has under way: of a customer, of a route, of a project. Without I/O.

The limits of customers and routes hold over all gateways and are kept in Redis (places.lua). What this process counts by
itself spares asking there where it alone has all that may be under way, and is what the policies without Redis go by: with
`open` each process lets in so many, with `share` its part of them. The limit per project is the process's own, for its
protection.

A cap counts what is held of it. A request holds all caps that apply to it or none, and lets go of them when its exchange
ends, however it ends. Counts outlive reloads of routes and tiers: they go by id, and are kept as long as somebody refers to
them.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.store.nouns import Customer, Route, Tier


class Scope(Enum):
    """What a cap is of."""

    CUSTOMER = "customer"
    ROUTE = "route"
    PROJECT = "project"


class Cap:
    """How many requests of one customer, route or project are under way."""

    __slots__ = ("__weakref__", "used")

    def __init__(self) -> None:
        self.used = 0


class Hold(NamedTuple):
    """What one request takes of a cap, which lets in `limit`."""

    cap: Cap
    limit: int
    scope: Scope


class Caps:
    """All caps of a process, by what they are of. `per_project` is the operator's own limit, None for none."""

    def __init__(self, per_project: int | None = None) -> None:
        self._per_project = per_project
        self._caps: WeakValueDictionary[str, Cap] = WeakValueDictionary()

    def holds(self, route: Route, customer: Customer | None, tier: Tier | None) -> tuple[Hold, ...]:
        """What a request of this customer on this route takes."""
        of_customer = None if customer is None or tier is None else tier.concurrent_requests
        of_route = route.spec.concurrent_requests
        if of_customer is of_route is self._per_project is None:
            return ()
        found = []
        if not (route.spec.shadow or (tier is not None and tier.is_shadow)):  # which refuse nothing
            if customer is not None and of_customer is not None:
                found.append(Hold(self._of(customer.id), of_customer, Scope.CUSTOMER))
            if of_route is not None:
                found.append(Hold(self._of(route.id), of_route, Scope.ROUTE))
        if self._per_project is not None:
            found.append(Hold(self._of(route.project_id), self._per_project, Scope.PROJECT))
        return tuple(found)

    def _of(self, object_id: str) -> Cap:
        cap = self._caps.get(object_id)
        if cap is None:
            self._caps[object_id] = cap = Cap()
        return cap


def take(ex: Exchange, holds: tuple[Hold, ...]) -> Hold | None:
    """Take all of them for an exchange, which lets go of them at its end. Or none: then the one that is full."""
    for hold in holds:
        if hold.cap.used >= hold.limit:
            return hold
    for hold in holds:
        hold.cap.used += 1
    ex.held = holds
    return None


def is_within_share(ex: Exchange, processes: int) -> bool:
    """True if this process has no more under way than its part of what may be, this request included."""
    holds: tuple[Hold, ...] = ex.held or ()
    return all(h.cap.used <= h.limit // processes for h in holds if h.scope is not Scope.PROJECT)
