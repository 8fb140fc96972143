"""What counters should say, from the facts: usage in the ledger, events on their way to it, requests still held. Pure.

Nouns: a *counter* is a quota's key in Redis with its value and the end of its period; a *window* is the list of admission
times of the last minute. A fact counts in the period of its own time (`at`), whenever it was settled or stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from ledger import names
from ledger.events import InvalidEvent, UsageEvent, decode
from ledger.ids import customer_id_for
from ledger.meters import IN_EVERY_EVENT
from ledger.periods import period_of

WINDOW_MS: Final = 60_000
BURST_MS: Final = 5 * WINDOW_MS
"""The longest window there is: that of a burst (gateway.limits.plan)."""


class Counter(NamedTuple):
    """The value of a quota's counter, and the Unix second at which its period ends."""

    value: int
    period_end: int


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation: whose, since when, and what it holds of which counters.

    `is_part`: of a further part of a long request, which was not admitted anew.
    """

    id: str
    at_ms: int
    project: str
    customer: str | None
    key: str | None
    route: str | None
    hold: tuple[tuple[str, int], ...]
    is_part: bool = False


def held_of(raw: bytes) -> Held | None:
    """A reservation as a gateway writes it; None if it is not one."""
    try:
        found: dict[str, Any] = orjson.loads(raw)
        hold = tuple((str(key), int(quantity)) for key, quantity in found["hold"])
        at_ms, project, customer = int(found["at"]), str(found["project"]), found.get("customer")
        key, route, is_part = found.get("key"), found.get("route"), found.get("is_part") is True
        return Held(str(found["id"]), at_ms, project, customer, key, route, hold, is_part)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def event_of(raw: bytes) -> UsageEvent | None:
    """An event on the stream; None if it will be a dead letter."""
    try:
        return decode(raw)
    except InvalidEvent:
        return None


@dataclass(slots=True)
class Recount:
    """Adds up facts for the shards in `wanted` (of `shards`).

    `anchors` maps a customer to the anchor of its periods (absent: calendar months), `limited` holds the ids of keys and
    routes with a limit per minute of their own and `meter:<name>` for each meter that some tier has a quota of.
    """

    shards: int
    wanted: Container[int]
    anchors: Mapping[str, datetime]
    limited: Container[str]
    counters: dict[int, dict[str, Counter]] = field(default_factory=lambda: defaultdict(dict))
    windows: dict[int, dict[str, list[int]]] = field(default_factory=lambda: defaultdict(dict))

    def used(self, project: str, mode: str, customer: str | None, meter: str, quantity: int, at: datetime) -> None:
        """So much of a meter was used in the period that `at` is in."""
        if not quantity or (meter in IN_EVERY_EVENT and f"meter:{meter}" not in self.limited):
            return
        shard = names.shard_of(project, customer, self.shards)
        if shard not in self.wanted:
            return
        start, end = period_of(self.anchors.get(customer) if customer else None, at)
        key = names.quota(shard, f"{mode}:{customer or project}", meter, int(start.timestamp()))
        self._add(shard, key, quantity, int(end.timestamp()))

    def admitted(self, project: str, customer: str | None, key: str | None, route: str | None, at_ms: int) -> None:
        """A request was admitted; it fills the windows of a minute."""
        shard = names.shard_of(project, customer, self.shards)
        places = [(shard, customer)] if customer else []
        if key is not None and key in self.limited:
            places.append((shard, key))
        if route is not None and route in self.limited:
            places.append((names.shard_of(project, None, self.shards), route))
        for where, scope in places:
            if where in self.wanted and scope is not None:
                self.windows[where].setdefault(names.window(where, scope), []).append(at_ms)
                if "burst" in self.limited:
                    longer = names.window(where, names.burst_scope(scope))
                    self.windows[where].setdefault(longer, []).append(at_ms)

    def happened(self, event: UsageEvent, since_ms: int) -> None:
        """An event that the ledger does not have yet; `since_ms` is where the last minute begins."""
        customer = event.customer
        if customer is None and event.external is not None:
            customer = customer_id_for(event.project, event.mode, event.external)
        at = datetime.fromtimestamp(event.at_ms / 1000, UTC)
        for meter, quantity in event.meters.items():
            self.used(event.project, event.mode, customer, meter, quantity, at)
        if event.at_ms > since_ms and not (event.notes or {}).get("part"):
            self.admitted(event.project, customer, event.key, event.route, event.at_ms)

    def holds(self, shard: int, held: Held, since_ms: int) -> None:
        """A request that is not settled yet."""
        at = datetime.fromtimestamp(held.at_ms / 1000, UTC)
        _, end = period_of(self.anchors.get(held.customer) if held.customer else None, at)
        for key, quantity in held.hold:
            self._add(shard, key, quantity, int(end.timestamp()))
        if held.at_ms > since_ms and not held.is_part:
            self.admitted(held.project, held.customer, held.key, held.route, held.at_ms)

    def _add(self, shard: int, key: str, quantity: int, period_end: int) -> None:
        before = self.counters[shard].get(key)
        self.counters[shard][key] = Counter(quantity + (before.value if before else 0), period_end)


def last_periods(anchor: datetime | None, now: datetime, earlier: datetime) -> Iterable[tuple[datetime, datetime]]:
    """The period that `now` is in, and that of `earlier` where it is another one: gateways' clocks differ."""
    current = period_of(anchor, now)
    previous = period_of(anchor, earlier)
    return (current,) if previous == current else (previous, current)
