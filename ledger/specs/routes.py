"""Which requests a route takes, and how it treats them."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from ledger.caching import CacheSpec
from ledger.cors import CorsSpec
from ledger.credentials import CredentialSpec, credential_mapping
from ledger.header_rules import HeaderRules, RequestHeaderRules
from ledger.health import RetryBudgetSpec
from ledger.meters import MEASURES, Meter, MeterSpec, UpstreamFailure, one_request
from ledger.spec_types import HeaderName, Method, Network, QueryName, Spec
from ledger.specs.text import AtOnce, Host, MeterName, Name, Path, PerMinute


class AuthMode(StrEnum):
    """Who may use a route."""

    KEY = "key"
    JWT = "jwt"
    """Whoever bears a token of one of the project's issuers."""
    KEY_OR_JWT = "key-or-jwt"
    NONE = "none"


class StoreFailure(StrEnum):
    """What a route does while the limit store (Redis) cannot be asked."""

    CLOSED = "closed"
    """Refuse with 503: nothing is let through unchecked."""
    SHARE = "share"
    """Each gateway process admits its share of what was left of the limits, counted by itself."""
    OPEN = "open"
    """Admit everything. It is counted all the same, once Redis is back."""


_PARAMETER = re.compile(r"\{[^{}/]*\}")


class RouteSpec(Spec):
    """host + path + methods → upstream, and how requests that match are treated."""

    name: Name
    host: Host | None = None
    path: Path
    methods: tuple[Method, ...] = ()
    upstream: Name
    auth: AuthMode = AuthMode.KEY
    key_header: HeaderName | None = None
    """A further header that may carry the key, besides Authorization: Bearer and X-API-Key."""
    key_query: QueryName | None = None
    """A query parameter that may carry the key; it is taken out before forwarding."""
    scopes: tuple[Name, ...] = ()
    """Scopes a key must have for this route (a key without scopes has all)."""
    allow_ips: Annotated[tuple[Network, ...], Field(max_length=256)] = ()
    """Who may use the route, by address; without any, everybody."""
    deny_ips: Annotated[tuple[Network, ...], Field(max_length=256)] = ()
    """Who may not, allowed or not."""
    cors: CorsSpec | None = None
    """Which pages may call it from a browser; without it, what the upstream says about that passes."""
    strip_prefix: bool = True
    """/demo/* with strip_prefix sends /demo/hello on as /hello; the upstream's base path is put before it."""
    rewrite: Path | None = None
    """The path to send on instead: /v2/{id}/* takes {id} and what is below from the route's own path."""
    preserve_host: bool = False
    """Send the client's Host on instead of the upstream's own."""
    request_headers: RequestHeaderRules = RequestHeaderRules()
    response_headers: HeaderRules = HeaderRules()
    requests_per_minute: PerMinute | None = None
    """A limit for the whole route, over all customers."""
    burst: PerMinute | None = None
    """So many requests more in any minute, as long as any five minutes have no more than five times the rate and this."""
    shadow: bool = False
    """Refuse nothing on this route: report what would have been refused. For trying out limits."""
    requests_per_minute_per_ip: PerMinute | None = None
    """A limit for each client address (IPv6: each /64), on a route with `auth: none`."""
    concurrent_requests: AtOnce | None = None
    """Requests of the route under way at once, over all gateways."""
    meters: Annotated[dict[MeterName, Meter], Field(max_length=32)] = Field(default_factory=one_request)
    """What each forwarded request counts: a fixed quantity, or where it is read."""
    include_usage: bool = False
    """Ask OpenAI-style completions for the usage of streams, for clients that do not; they do not see that it was asked."""
    on_upstream_failure: UpstreamFailure = UpstreamFailure.CHARGE
    read_timeout_ms: int = Field(default=60_000, ge=1, le=3_600_000)
    """Longest silence of the upstream before a 504."""
    total_timeout_ms: int | None = Field(default=None, ge=1, le=86_400_000)
    retries: int = Field(default=1, ge=0, le=5)
    """Further tries where the request cannot have reached an upstream."""
    retry_budget: RetryBudgetSpec = RetryBudgetSpec()
    max_body_bytes: int | None = Field(default=None, ge=0, le=2**53)
    max_header_bytes: int | None = Field(default=None, ge=64, le=2**20)
    """Largest header section of a request, where it is less than what the gateway takes."""
    credential: Annotated[CredentialSpec, BeforeValidator(credential_mapping)] | None = None
    """What goes with each request of this route, in place of the upstream's own credential."""
    cache: CacheSpec | None = None
    """Keep answers that the upstream lets be kept."""
    websocket: bool = True
    """Pass WebSocket handshakes on; without, they are ordinary requests and their Upgrade is dropped."""
    websocket_idle_ms: int = Field(default=600_000, ge=1, le=86_400_000)
    """Longest silence of a WebSocket, both ways, before it is closed."""
    settle_every_s: int | None = Field(default=None, ge=1, le=86_400)
    """Answers and WebSockets that take longer are settled in parts of this length, each an event of its own."""
    settle_every_messages: int | None = Field(default=None, ge=1, le=100_000)
    """WebSockets are settled in parts of so many messages. Where a tier limits messages, 100 unless this says otherwise."""
    on_store_failure: StoreFailure = StoreFailure.CLOSED

    @field_validator("requests_per_minute_per_ip")
    @classmethod
    def _by_address_only_where_nobody_is_known(cls, limit: int | None, info: ValidationInfo) -> int | None:
        if limit is not None and info.data.get("auth", AuthMode.NONE) is not AuthMode.NONE:
            raise ValueError(
                "requests_per_minute_per_ip is for routes with auth: none; others are limited by key and tier"
            )
        return limit

    @field_validator("burst")
    @classmethod
    def _burst_of_a_rate(cls, burst: int | None, info: ValidationInfo) -> int | None:
        if burst is not None and info.data.get("requests_per_minute", 1) is None:
            raise ValueError("burst needs requests_per_minute")
        return burst

    @field_validator("rewrite")
    @classmethod
    def _rewrite_takes_what_there_is(cls, rewrite: str | None, info: ValidationInfo) -> str | None:
        if rewrite is not None and "path" in info.data:
            there = info.data["path"].split("/")
            missing = [s for s in rewrite.split("/") if (s == "*" or s.startswith("{")) and s not in there]
            if missing:
                raise ValueError(f"{missing[0]} is not in the route's path {info.data['path']}")
        return rewrite

    @field_validator("meters")
    @classmethod
    def _measures_keep_their_names(cls, meters: dict[str, int | MeterSpec]) -> dict[str, int | MeterSpec]:
        for name, meter in meters.items():
            if name in MEASURES and (isinstance(meter, int) or meter.source != name):
                raise ValueError(f"{name} is what the gateway measures under that name; call this meter otherwise")
        return meters

    @field_validator("include_usage")
    @classmethod
    def _usage_is_for_a_meter(cls, include_usage: bool, info: ValidationInfo) -> bool:
        meters = info.data.get("meters", {}).values()
        if include_usage and not any(isinstance(m, MeterSpec) and m.reads_body for m in meters):
            raise ValueError("include_usage is for a route with a meter that reads it, such as tokens: usage:total")
        return include_usage

    @property
    def pattern(self) -> str:
        """The path without the names of its parameters: /users/{}."""
        return _PARAMETER.sub("{}", self.path)

    @property
    def serves(self) -> str:
        """What it matches, as text: two routes with the same text would answer the same requests."""
        return f"{','.join(sorted(set(self.methods))) or 'any method'} {self.host or 'any host'}{self.pattern}"
