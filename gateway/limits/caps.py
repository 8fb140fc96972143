"""How many requests may be under way at once: of a customer, of a route, of a project. In this process, without I/O.

A cap counts what is held of it. A request holds all caps that apply to it or none, and lets go of them when its exchange
ends, however it ends. Counts outlive reloads of routes and tiers: they go by id, and are kept as long as somebody refers to
them. With N worker processes up to N times as many can be under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.store.nouns import Customer, Route, Tier


class Cap:
    """How many requests of one customer, route or project are under way."""

    __slots__ = ("__weakref__", "used")

    def __init__(self) -> None:
        self.used = 0


class Hold(NamedTuple):
    """What one request takes of a cap, which lets in `limit`; `is_customers`: it is the customer who asks too much."""

    cap: Cap
    limit: int
    is_customers: bool = False


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
        if customer is not None and of_customer is not None:
            found.append(Hold(self._of(customer.id), of_customer, is_customers=True))
        if of_route is not None:
            found.append(Hold(self._of(route.id), of_route))
        if self._per_project is not None:
            found.append(Hold(self._of(route.project_id), self._per_project))
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
