"""May this key do that: expiry, revocation, project, scope, origin, address. Pure.

`refusal` returns the catalogue's problem, or None for yes. Order: what makes the key worthless first (401), then what the
key is not for (403).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger import problems
from ledger.keys import KeyKind
from ledger.restrictions import is_address_allowed, is_origin_allowed

if TYPE_CHECKING:
    from gateway.http1.fields import Fields
    from gateway.store.nouns import Principal, Route
    from ledger.problems import Problem

_READS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


def refusal(
    principal: Principal, route: Route | None, method: bytes, fields: Fields, address: str, now: float
) -> Problem | None:
    """Why this key may not make this request; `address` is the client's, `now` is Unix seconds.

    `route` None: one of the gateway's own endpoints.
    """
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
    if principal.allowed_origins:
        origin = fields.index.get(b"origin")
        if not is_origin_allowed(origin.decode("latin-1") if origin is not None else None, principal.allowed_origins):
            return problems.ORIGIN_NOT_ALLOWED
    if principal.allowed_ips and not is_address_allowed(address, principal.allowed_ips):
        return problems.IP_NOT_ALLOWED
    return None
