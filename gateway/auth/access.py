"""May this key do that: expiry, revocation, project, scope, origin, address. Pure.

`refusal` returns the catalogue's problem, or None for yes. Order: what makes the key worthless first (401), then what the
key is not for (403).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

from ledger import problems
from ledger.keys import KeyKind

if TYPE_CHECKING:
    from gateway.http1.fields import Fields
    from gateway.store.nouns import Principal, Route
    from ledger.problems import Problem

_READS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_is_origin: Final = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+(?::\d+)?|\[[0-9a-f:.]+\](?::\d+)?)").fullmatch
"""A serialised origin in lower case (RFC 6454 §6.2), and its host with the port."""


def refusal(
    principal: Principal, route: Route | None, method: bytes, fields: Fields, peer_ip: str, now: float
) -> Problem | None:
    """Why this key may not make this request; `now` is Unix seconds. `route` None: one of the gateway's own endpoints."""
    if principal.is_revoked:
        return problems.KEY_REVOKED
    if principal.expires_at is not None and principal.expires_at <= now:
        return problems.KEY_EXPIRED
    if route is not None:
        if route.project_id != principal.project_id:
            return problems.WRONG_PROJECT
        if route.scopes and principal.scopes and not route.scopes <= principal.scopes:
            return problems.SCOPE_MISSING
    if principal.kind == KeyKind.PUBLISHABLE and method not in _READS:
        return problems.FORBIDDEN
    if principal.allowed_origins and not _origin_allowed(fields.index.get(b"origin"), principal.allowed_origins):
        return problems.ORIGIN_NOT_ALLOWED
    if principal.allowed_ips and not _ip_allowed(peer_ip, principal.allowed_ips):
        return problems.IP_NOT_ALLOWED
    return None


def _ip_allowed(peer_ip: str, allowed: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    """A socket that listens on :: sees an IPv4 client as ::ffff:192.0.2.1; that is the same client."""
    address = ip_address(peer_ip)
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in allowed)


def _origin_allowed(origin: bytes | None, allowed: tuple[str, ...]) -> bool:
    """`https://app.example.com` matches itself, `app.example.com` and `*.example.com`; `*` matches any origin."""
    if origin is None:
        return False
    text = origin.decode("latin-1").lower()
    matched = _is_origin(text)
    host = matched[1] if matched else ""
    for pattern in allowed:
        wanted = pattern.lower()
        if wanted in ("*", text, host):
            return True
        if "://" in wanted:
            scheme, _, wanted = wanted.partition("://")
            if not text.startswith(scheme + "://"):
                continue
        if wanted.startswith("*.") and host.endswith(wanted[1:]):
            return True
    return False
