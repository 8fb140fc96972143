"""All state: halves of accounts with their objects, events and idempotent answers.

Ids look like Stripe's and follow from a counter, so that a run repeats itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from stripefake.clock import Clock
from stripefake.errors import Refusal, missing
from stripefake.faults import Faults

PLATFORM: Final = "acct_fakeplatform"
"""The account that keys belong to, unless Stripe-Account names a connected one."""
LOG_ENTRIES: Final = 10_000
"""Requests and events remembered; older ones are forgotten."""

Object = dict[str, Any]


@dataclass(slots=True)
class MeterEvent:
    """One that was accepted. `error` is why it turned out not to count, once it was looked at."""

    event_name: str
    identifier: str
    payload: dict[str, str]
    timestamp: int
    received: int
    is_processed: bool = False
    is_canceled: bool = False
    is_reported: bool = False
    error: str | None = None


@dataclass(slots=True)
class Answered:
    """A request that was carried out under an idempotency key; None as body while it still is."""

    fingerprint: bytes
    at: int
    status: int = 0
    body: Object | None = None


@dataclass(slots=True)
class Half:
    """One account in one mode."""

    account: str
    livemode: bool
    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    meter_events: list[MeterEvent] = field(default_factory=list)
    identifiers: dict[str, int] = field(default_factory=dict)
    answered: dict[str, Answered] = field(default_factory=dict)
    in_flight: Counter[tuple[str, str]] = field(default_factory=Counter)

    def of(self, kind: str) -> dict[str, Object]:
        """All objects of a kind, by id, oldest first."""
        return self.objects.setdefault(kind, {})

    def get(self, kind: str, object_id: str, param: str = "id") -> Object:
        """One object. Raises Refusal if this half has none of that id."""
        found = self.of(kind).get(object_id)
        if found is None or found.get("deleted"):
            raise missing(kind, object_id, param)
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """A line of the log."""

    method: str
    path: str
    account: str
    livemode: bool
    idempotency_key: str | None
    status: int
    fault: str | None = None


@dataclass(slots=True)
class Options:
    """How this fake behaves when nothing goes wrong."""

    latency_ms: int = 0
    summary_lag_s: int = 0
    requests_per_second: int | None = None
    shuffle: bool = False
    duplicate: float = 0.0
    delay_s: float = 0.0
    paused: bool = False


class World:
    """Everything one fake knows. One thread, one loop."""

    def __init__(self) -> None:
        self.happened = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        """Begin anew: nothing is there, nothing goes wrong, and it is now."""
        self.clock = Clock()
        self.faults = Faults()
        self.options = Options()
        self.accounts = {PLATFORM}
        self.halves: dict[tuple[str, bool], Half] = {}
        self.log: deque[Request] = deque(maxlen=LOG_ENTRIES)
        self.outbox: deque[tuple[Half, Object]] = deque(maxlen=LOG_ENTRIES)
        self.most_at_once = 0
        self.recent: deque[float] = deque()
        self._made: Counter[str] = Counter()

    def half(self, account: str, *, livemode: bool) -> Half:
        """One half. Raises Refusal for an account that is not connected."""
        if account not in self.accounts:
            raise Refusal(
                f"The provided key does not have access to account '{account}' (or that account does not exist).",
                status=403,
                code="account_invalid",
            )
        return self.halves.setdefault((account, livemode), Half(account, livemode))

    def new_id(self, prefix: str) -> str:
        """An id such as cus_…."""
        self._made[prefix] += 1
        return f"{prefix}_{sha256(f'{prefix}{self._made[prefix]}'.encode()).hexdigest()[:24]}"

    def emit(self, half: Half, kind: str, of: Object, previous: Object | None = None) -> None:
        """Something happened: an event that can be listed, and is delivered to who wants it."""
        event: Object = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": None,
            "created": self.clock.now,
            "data": {"object": dict(of), **({} if previous is None else {"previous_attributes": previous})},
            "livemode": half.livemode,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
            **({"account": half.account} if half.account != PLATFORM else {}),
        }
        half.of("event")[event["id"]] = event
        self.outbox.append((half, event))
        self.happened.set()
