"""What the snapshot is made of: the gateway's own, slotted view of keys, customers, tiers, issuers and routes.

They are made from Postgres rows, shared by all requests and never changed after they are made: a change in Postgres makes
the snapshot forget them. Only the `plans` remembered beside them are filled in by use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

from gateway.store.credentials import Injected
from ledger.specs import IssuerSpec, RouteSpec, UpstreamSpec

Sealed = tuple[bytes | None, bytes | None]
"""The sealed secrets of a route and of its upstream."""


class Overage(NamedTuple):
    """A meter that goes on beyond what is included, at a price (minor units per unit)."""

    meter: str
    included: int
    price: Decimal


@dataclass(slots=True, eq=False)
class Tier:
    """`quotas` maps meter to its hard limit per period, None where the meter is unlimited (or the limit is soft)."""

    id: str
    name: str
    requests_per_minute: int | None
    quotas: dict[str, int | None]
    concurrent_requests: int | None = None
    burst: int | None = None
    is_shadow: bool = False
    spend_cap_minor: int | None = None
    overage: tuple[Overage, ...] = ()
    upgrade_url: str | None = None


@dataclass(slots=True, eq=False)
class Customer:
    """`is_known` is False for an end user that no row exists for yet; `anchor` None means calendar months."""

    id: str
    external_id: str | None
    tier: Tier | None
    anchor: datetime | None
    is_known: bool
    plans: dict[Any, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Principal:
    """Who a key is. `expires_at` is Unix seconds; `key_hash` is what it is looked up by."""

    key_id: str
    project_id: str
    mode: str
    kind: str
    customer: Customer | None
    scopes: frozenset[str]
    requests_per_minute: int | None
    allowed_origins: tuple[str, ...]
    allowed_ips: tuple[IPv4Network | IPv6Network, ...]
    expires_at: float | None
    is_revoked: bool
    key_hash: bytes = b""
    plans: dict[Any, Any] = field(default_factory=dict)
    recalled: Any = None
    """Who it was found to be last, put here by the pipeline."""


@dataclass(slots=True, eq=False)
class Issuer:
    """Who signs tokens for a project's end users."""

    id: str
    project_id: str
    spec: IssuerSpec


@dataclass(slots=True, eq=False)
class Route:
    """A compiled route. `segments` are those of its path, without the `*` of a prefix route; a parameter stays `{name}`.

    `injected` is the credential that goes to the upstream, made of `sealed` (of the route, of its upstream). `replaced` are
    the header fields that do not pass to it: `added_lines` stand in their place; `answer_dropped` and `answer_lines` are the
    same for its answers. `rewrite` is the path to send on (literal segments, and places in the path that came).
    """

    id: str
    project_id: str
    name: str
    spec: RouteSpec
    upstream_id: str
    upstream: UpstreamSpec
    segments: tuple[bytes, ...]
    is_exact: bool
    methods: frozenset[bytes]
    key_header: bytes | None
    key_query: bytes | None
    scopes: frozenset[str]
    read_timeout: float
    sealed: Sealed = (None, None)
    injected: Injected | None = None
    replaced: frozenset[bytes] = frozenset()
    added_lines: bytes = b""
    rewrite: tuple[bytes | int, ...] | None = None
    answer_dropped: frozenset[bytes] = frozenset()
    answer_lines: bytes = b""
    plans: dict[Any, Any] = field(default_factory=dict)
    pools: Any = None
    """The upstream's connection pools, put here by the proxy at first use."""
    shape: Any = None
    """What is done to its answers, put here by the pipeline at first use; None where nothing is."""
    cache: Any = None
    """What is kept of its answers, put here at first use; None where nothing is."""
    budget: Any = None
    """How many retries it may make, put here by the pipeline at the first."""
    metrics: Any = None
    """This route's counters, put here by the pipeline at first use."""
