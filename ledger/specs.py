"""What can be declared, and what makes it valid: the one set of models behind YAML files, admin's API and the gateway.

A declaration file is a list of projects, each with its tiers, customers, issuers, upstreams and routes (`Declaration`).
Names are the identity: applying the same file twice changes nothing. Modes: a tier or customer is declared for `test`,
`live` or both halves of the project (`modes`); upstreams and routes serve both; the users of an issuer belong to one.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ledger.caching import CacheSpec
from ledger.cors import CorsSpec
from ledger.credentials import CredentialSpec, credential_mapping
from ledger.header_rules import HeaderRules, RequestHeaderRules
from ledger.health import ActiveHealthSpec, PassiveHealthSpec, RetryBudgetSpec
from ledger.keys import KeyKind, Mode
from ledger.meters import MEASURES, Meter, MeterSpec, UpstreamFailure, one_request
from ledger.references import refuse, twice, unknown
from ledger.spec_types import HeaderName, Method, Network, Origin, QueryName, Spec, matching

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_HOST = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::\d{1,5})?", re.ASCII)
_SEGMENT = r"(?:[A-Za-z0-9._~!$&'()+,;=:@-]+|\{[a-z][a-z0-9_]{0,31}\})"
_PARAMETER = re.compile(r"\{[^{}/]*\}")
_PATH = re.compile(rf"/(?:{_SEGMENT}/)*(?:\*|{_SEGMENT})?", re.ASCII)
_URL = re.compile(r"https?://[\x21\x24-\x3e\x41-\x7e]+")  # printable ASCII without space, '"', '#', '?' and '@'
_EXTERNAL_ID = re.compile(r"[\x21-\x7e]{1,200}")
_TITLE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")  # what PostgreSQL stores and a log shows in one line
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,1000}")
_EMAIL = re.compile(r"(?=.{3,254}$)[^@\s\x00-\x1f\x7f\ud800-\udfff]+@[^@\s\x00-\x1f\x7f\ud800-\udfff]+")
_ATOM = r"[^@\s.()<>,;:\\\"\[\]\x00-\x1f\x7f-\x9f\ud800-\udfff]+"  # of RFC 5322: nothing that reads as another address
_MAILBOX = re.compile(rf"(?=.{{3,254}}$){_ATOM}(?:\.{_ATOM})*@{_ATOM}(?:\.{_ATOM})*")
_CURRENCY = re.compile(r"[a-z]{3}")
_ISSUER = re.compile(r"[\x21-\x7e]{1,300}")
_NAMES = r"[\x21-\x2d\x2f-\x7e]+"
_CLAIM = re.compile(
    rf"(?=.{{1,200}}$)(?:/(?:[\x21-\x7d]|~[01])*|(?!/)(?:[\x21-\x7e]*://[\x21-\x7e]*|{_NAMES}(?:\.{_NAMES})*))"
)


def _no_dot_segments(value: str) -> str:
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError("a path may not contain '.' or '..'")
    return value


def _origin_url(value: str) -> str:
    if "@" in value:
        raise ValueError("expected http(s)://host[:port][/base-path]; credentials do not belong in a URL")
    try:
        parts = urlsplit(value) if _URL.fullmatch(value) else None
        is_origin = parts is not None and parts.hostname is not None and parts.port != 0
    except ValueError:  # the host is not an IPv6 address, or the port not a number from 0 to 65535
        is_origin = False
    if not is_origin:
        raise ValueError(f"expected http(s)://host[:port][/base-path] without a query, got {value!r:.120}")
    return value.rstrip("/")


def _page_url(value: str) -> str:
    try:
        parts = urlsplit(value) if value.isascii() and value.isprintable() and not set(value) & set(' "<>\\') else None
        is_url = (
            parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:  # the host is not an IPv6 address
        is_url = False
    if not is_url or len(value) > 500:
        raise ValueError(f"expected the http(s):// address of a page, at most 500 characters, got {value!r:.120}")
    return value


def _key_set_url(value: str) -> str:
    if "@" in value:
        raise ValueError("expected https://host/path; credentials do not belong in a URL")
    try:
        parts = urlsplit(value) if _ISSUER.fullmatch(value) and "#" not in value else None
        is_url = parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the host is not an IPv6 address, or the port not a number from 0 to 65535
        is_url = False
    if parts is None or not is_url:
        raise ValueError(f"expected https://host/path, got {value!r:.120}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("expected https://…: whoever can change this answer can sign tokens (http only to loopback)")
    return value


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses of this machine's loopback."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


Name = Annotated[str, matching(_NAME, "a name of lower-case letters, digits, '.', '_' or '-' (at most 63)")]
MeterName = Annotated[str, matching(_NAME, "a meter's name: lower-case letters, digits, '.', '_' or '-' (at most 63)")]
Host = Annotated[str, matching(_HOST, "a host such as api.example.com, *.example.com or localhost:8080")]
Path = Annotated[
    str,
    matching(_PATH, "a path such as /v1/status (exact), /v1/users/{id} (any id) or /v1/* (prefix)"),
    AfterValidator(_no_dot_segments),
]
OriginUrl = Annotated[str, AfterValidator(_origin_url)]
ExternalId = Annotated[str, matching(_EXTERNAL_ID, "1 to 200 printable ASCII characters without spaces")]
Title = Annotated[str, matching(_TITLE, "1 to 200 characters on one line")]
Text = Annotated[str, matching(_TEXT, "at most 1000 characters on one line")]
Email = Annotated[str, matching(_EMAIL, "an e-mail address of at most 254 characters")]
Mailbox = Annotated[str, matching(_MAILBOX, "one e-mail address such as ada@example.com, of at most 254 characters")]
"""An address that proves who somebody is: without comments, quotes and lists, which lead to somebody else's mail."""
Currency = Annotated[str, matching(_CURRENCY, "a currency code in lower case, such as usd")]
IssuerText = Annotated[str, matching(_ISSUER, "1 to 300 printable ASCII characters without spaces")]
PageUrl = Annotated[str, AfterValidator(_page_url)]
KeySetUrl = Annotated[str, AfterValidator(_key_set_url)]
ClaimPath = Annotated[
    str, matching(_CLAIM, "a claim such as sub, public_metadata.plan, /any/pointer or https://example.com/plan")
]
Money = Annotated[int, Field(ge=0, le=2**53)]
"""Minor units of a currency."""
Modes = Annotated[tuple[Mode, ...], Field(min_length=1, max_length=2)]
AtOnce = Annotated[int, Field(ge=1, le=1_000_000)]
PerMinute = Annotated[int, Field(ge=1, le=1_000_000)]


def is_meter_name(text: str) -> bool:
    """True if a meter may be called so."""
    return _NAME.fullmatch(text) is not None


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


class QuotaSpec(Spec):
    """How much of one meter a tier includes per period. In YAML a bare number is a hard limit, `null` is unlimited."""

    limit: int | None = Field(default=None, ge=0, le=2**53)
    hard: bool = True
    overage_price: Decimal | None = Field(default=None, ge=0, max_digits=20, decimal_places=10)
    """Minor units of the tier's currency per unit beyond the limit; only where `hard` is false."""

    @model_validator(mode="after")
    def _overage_only_when_soft(self) -> Self:
        if self.hard and self.overage_price is not None:
            raise ValueError("overage_price needs hard: false")
        return self


def _bare_quota(value: Any) -> Any:
    return {"limit": value} if value is None or (isinstance(value, int) and not isinstance(value, bool)) else value


class TierSpec(Spec):
    """A plan of a project."""

    name: Name
    title: Title | None = None
    price_minor: Money = 0
    currency: Currency = "usd"
    billing_interval: Literal["month", "year"] = "month"
    requests_per_minute: PerMinute | None = None
    burst: PerMinute | None = None
    """So many requests more in any minute, as long as any five minutes have no more than five times the rate and this."""
    shadow: bool = False
    """Refuse nothing: report what would have been refused. For trying out limits."""
    concurrent_requests: AtOnce | None = None
    """Requests of one customer under way at once, over all gateways."""
    quotas: dict[MeterName, Annotated[QuotaSpec, BeforeValidator(_bare_quota)]] = Field(default_factory=dict)
    spend_cap_minor: Money | None = None
    trial_days: int = Field(default=0, ge=0, le=730)
    features: dict[Title, bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | Text] = Field(default_factory=dict)
    default: bool = False
    """New customers of the project get this tier; at most one a mode."""
    popular: bool = False
    upgrade_url: PageUrl | None = None
    """Where its customers get more: refusals for a used-up quota or spend cap tell it."""
    modes: Modes = (Mode.TEST, Mode.LIVE)

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_minute is None:
            raise ValueError("burst needs requests_per_minute")
        return self


class CustomerSpec(Spec):
    """Whoever a project serves and meters. `tier` starts a subscription; without it the default tier applies."""

    external_id: ExternalId
    name: Title | None = None
    email: Email | None = None
    tier: Name | None = None
    modes: Modes = (Mode.TEST, Mode.LIVE)


class KeySpec(Spec):
    """A key to be made. Its text is shown once, in the answer; files never hold keys."""

    name: Title
    kind: KeyKind = KeyKind.SECRET
    mode: Mode = Mode.TEST
    customer: ExternalId | None = None
    scopes: tuple[Name, ...] = ()
    requests_per_minute: int | None = Field(default=None, ge=1, le=10_000)
    allowed_origins: tuple[Origin, ...] = ()
    allowed_ips: tuple[Network, ...] = ()
    expires_at: datetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_customer_says_the_kind(cls, given: Any) -> Any:
        """Who names a customer and no kind wants that customer's key."""
        if isinstance(given, dict) and given.get("kind") is None and given.get("customer") is not None:
            return {**given, "kind": KeyKind.CUSTOMER}
        return given

    @model_validator(mode="after")
    def _customer_keys_have_a_customer(self) -> Self:
        if (self.kind is KeyKind.CUSTOMER) != (self.customer is not None):
            raise ValueError("a ck key needs a customer, and only a ck key has one")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError("expires_at needs a time zone, such as 2027-01-31T00:00:00Z")
        if self.expires_at is not None and not 2000 <= self.expires_at.year < 9000:
            raise ValueError("expires_at: expected a year from 2000 to 8999")
        return self


class SigningAlgorithm(StrEnum):
    """How a token may be signed. All asymmetric: the gateway holds nothing that could make a token."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    ES256 = "ES256"
    ES384 = "ES384"
    EDDSA = "EdDSA"


class ClaimsSpec(Spec):
    """Where in a token's claims to look; what is None is not looked for."""

    customer: ClaimPath = "sub"
    """The end user: the external id of a customer, who need not exist yet."""
    tier: ClaimPath | None = None
    """The name of the tier the end user is served under; where the token has none, the tier on record."""
    scopes: ClaimPath | None = "scope"
    """The token's scopes: text with spaces between, or a list."""


class IssuerSpec(Spec):
    """Who signs tokens that routes with `auth: jwt` take: an identity provider, known by its public keys."""

    name: Name
    issuer: IssuerText
    """The `iss` of its tokens, to the letter."""
    jwks_url: KeySetUrl
    """Where its public keys are (RFC 7517)."""
    audiences: Annotated[tuple[IssuerText, ...], Field(max_length=32)] = ()
    """A token must be for one of these (`aud`); without any, its audience is not looked at."""
    leeway_s: int = Field(default=30, ge=0, le=300)
    """How far its clock and ours may be apart."""
    algorithms: Annotated[tuple[SigningAlgorithm, ...], Field(min_length=1, max_length=7)] = tuple(SigningAlgorithm)
    claims: ClaimsSpec = ClaimsSpec()
    mode: Mode = Mode.LIVE
    """The half of the project its users belong to."""


class TargetSpec(Spec):
    """One origin of an upstream, such as https://api.example.com/base."""

    url: OriginUrl
    weight: int = Field(default=1, ge=1, le=1000)


def _bare_target(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class UpstreamSpec(Spec):
    """Where requests go: one or more origins and how connections to them are kept."""

    name: Name
    targets: tuple[Annotated[TargetSpec, BeforeValidator(_bare_target)], ...] = Field(min_length=1, max_length=64)
    connect_timeout_ms: int = Field(default=5_000, ge=1, le=600_000)
    keepalive_ms: int = Field(default=4_000, ge=0, le=600_000)
    """How long an idle connection is kept. Below the upstream's own limit, or requests meet a closing connection."""
    max_connections: int = Field(default=1_000, ge=1, le=100_000)
    balance: Literal["weighted", "least_outstanding"] = "weighted"
    """Targets take turns by weight, or the one with the fewest requests under way for its weight is next."""
    passive_health: PassiveHealthSpec | None = None
    """Without it: of one target, none; of several, the default, and all are tried where none is left."""
    active_health: ActiveHealthSpec | None = None
    credential: Annotated[CredentialSpec, BeforeValidator(credential_mapping)] | None = None
    """How the gateway makes itself known to the upstream, whoever the client is."""


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


class ProjectSpec(Spec):
    """A tenant with all that is declared for it."""

    name: Title
    kind: Literal["saas", "store"] = "saas"
    tiers: tuple[TierSpec, ...] = ()
    customers: tuple[CustomerSpec, ...] = ()
    issuers: tuple[IssuerSpec, ...] = ()
    upstreams: tuple[UpstreamSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()

    # Each list is checked as soon as it is valid in itself, so that a fault in one does not hide those of another.
    @field_validator("tiers")
    @classmethod
    def _check_tiers(cls, tiers: tuple[TierSpec, ...]) -> tuple[TierSpec, ...]:
        faults = twice("name", ((i, f"{m} tier {t.name!r}") for i, t in enumerate(tiers) for m in t.modes))
        faults += twice(
            "default", ((i, f"a default {m} tier") for i, t in enumerate(tiers) for m in t.modes if t.default)
        )
        refuse(faults)
        return tiers

    @field_validator("customers")
    @classmethod
    def _check_customers(cls, customers: tuple[CustomerSpec, ...], info: ValidationInfo) -> tuple[CustomerSpec, ...]:
        faults = []
        for mode in Mode:
            of_mode = [(i, c) for i, c in enumerate(customers) if mode in c.modes]
            faults += twice("external_id", ((i, f"{mode} customer {c.external_id!r}") for i, c in of_mode))
            faults += twice(
                "email", ((i, f"{mode} customer with email {c.email.lower()}") for i, c in of_mode if c.email)
            )
            if "tiers" in info.data:
                tiers = {t.name for t in info.data["tiers"] if mode in t.modes}
                faults += unknown(
                    f"{mode} tier", "tier", ((i, c.tier) for i, c in of_mode if c.tier is not None), tiers
                )
        refuse(faults)
        return customers

    @field_validator("issuers")
    @classmethod
    def _check_issuers(cls, issuers: tuple[IssuerSpec, ...]) -> tuple[IssuerSpec, ...]:
        faults = twice("name", ((i, f"issuer {n.name!r}") for i, n in enumerate(issuers)))
        faults += twice("issuer", ((i, f"an issuer of tokens by {n.issuer!r}") for i, n in enumerate(issuers)))
        refuse(faults)
        return issuers

    @field_validator("upstreams")
    @classmethod
    def _check_upstreams(cls, upstreams: tuple[UpstreamSpec, ...]) -> tuple[UpstreamSpec, ...]:
        refuse(twice("name", ((i, f"upstream {u.name!r}") for i, u in enumerate(upstreams))))
        return upstreams

    @field_validator("routes")
    @classmethod
    def _check_routes(cls, routes: tuple[RouteSpec, ...], info: ValidationInfo) -> tuple[RouteSpec, ...]:
        faults = twice("name", ((i, f"route {r.name!r}") for i, r in enumerate(routes)))
        faults += twice("path", ((i, f"a route for {r.serves}") for i, r in enumerate(routes)))
        if "upstreams" in info.data:
            upstreams = {u.name for u in info.data["upstreams"]}
            faults += unknown("upstream", "upstream", ((i, r.upstream) for i, r in enumerate(routes)), upstreams)
        if not info.data.get("issuers", True):
            by_token = (AuthMode.JWT, AuthMode.KEY_OR_JWT)
            faults += [
                ((i, "auth"), f"{r.auth} needs an issuer of tokens; none is declared under issuers")
                for i, r in enumerate(routes)
                if r.auth in by_token
            ]
        refuse(faults)
        return routes


class Declaration(Spec):
    """A whole file."""

    version: Literal[1] = 1
    projects: tuple[ProjectSpec, ...]

    @field_validator("projects")
    @classmethod
    def _check_projects(cls, projects: tuple[ProjectSpec, ...]) -> tuple[ProjectSpec, ...]:
        faults = twice("name", ((i, f"project {p.name!r}") for i, p in enumerate(projects)))
        served: dict[str, int] = {}
        for i, project in enumerate(projects):
            for j, route in enumerate(project.routes):
                if served.setdefault(route.serves, i) != i:
                    faults.append(((i, "routes", j, "path"), f"another project has a route for {route.serves}"))
        refuse(faults)
        return projects
