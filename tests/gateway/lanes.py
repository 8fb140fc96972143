"""The lanes that a proxied request may take, as routes: each message has to mean the same on all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Lane:
    """A route with one of the features that take requests another way. `dead`: how many origins that cannot be reached come
    first; `tier` are a tier's limits."""

    route: dict[str, Any] = field(default_factory=dict)
    tier: dict[str, Any] = field(default_factory=dict)
    is_dead_first: bool = False


_METERS: Final = {"requests": 1, "tokens": {"source": "usage:total", "estimate": 5}}

LANES: Final[dict[str, Lane]] = {
    "plain": Lane(),
    "cached": Lane({"cache": {}}),
    "metered": Lane({"meters": _METERS}, {"quotas": {"requests": None, "tokens": 10**9}}),
    "cached and metered": Lane({"cache": {}, "meters": _METERS}),
    "in parts": Lane({"meters": _METERS, "settle_every_s": 60}, {"quotas": {"bytes_out": 10**12}}),
    "asked for usage": Lane({"meters": _METERS, "include_usage": True}),
    "injected": Lane({"credential": {"header": "X-Up-Key", "value": "up-secret"}}),
    "injected into the query": Lane({"credential": {"query": "k", "value": "up-secret"}}),
    "shaped": Lane({"response_headers": {"set": {"X-Set": "y"}}, "cors": {"allowed_origins": ["*"]}}),
    "retried": Lane({"retries": 2}, is_dead_first=True),
    "with places": Lane({"concurrent_requests": 50}, {"concurrent": 50}),
    "watched": Lane({"upstream_passive_health": {"failures": 10_000, "failure_percent": 100, "min_requests": 10**6}}),
    "with windows": Lane({"requests_per_minute": 100_000, "burst": 10}, {"per_minute": 100_000, "burst": 10}),
}
