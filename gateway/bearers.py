"""Who bears a token: the end user it names, the tier that applies, and whether its scopes suffice.

The token is verified (gateway.auth.tokens), its claims are looked up in the snapshot: the end user as `X-User-Id` of a
secret key would be (there need not be a row), the tier as `X-User-Plan` would be. Unlike a key, a token without scopes has
none. Failure: a `Refusal` with the challenge of RFC 6750, never an exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.auth.jwt import Rejection
from gateway.context import RETRY_SOON, Gateway, Refusal
from gateway.metrics import Admission
from gateway.store.snapshot import Unavailable
from ledger import problems
from ledger.specs import AuthMode

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.store.nouns import Customer, Route, Tier

_UNAVAILABLE: Final = Refusal(problems.AUTH_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE)


def _refusal(rejection: Rejection) -> Refusal:
    if rejection is Rejection.KEYS_UNAVAILABLE:
        return _UNAVAILABLE
    problem = problems.TOKEN_EXPIRED if rejection is Rejection.EXPIRED else problems.BAD_TOKEN
    challenge = f'Bearer realm="tollgate", error="invalid_token", error_description="{rejection.value}"'
    return Refusal(problem, f"WWW-Authenticate: {challenge}\r\n".encode(), detail=rejection.value)


_REFUSALS: Final = {rejection: _refusal(rejection) for rejection in Rejection}


class Bearer(NamedTuple):
    """An end user with a good token; `expires_at` is its `exp`, in Unix seconds."""

    project_id: str
    mode: str
    customer: Customer
    tier: Tier | None
    expires_at: float


def is_token(text: bytes, auth: AuthMode = AuthMode.KEY_OR_JWT) -> bool:
    """True if a credential is to be taken for a token. A token has dots, which no key has."""
    return auth is AuthMode.JWT or (auth is AuthMode.KEY_OR_JWT and b"." in text)


async def bearer_of(gw: Gateway, ex: Exchange, text: bytes, route: Route | None) -> Bearer | Refusal:
    """Who bears a token; `route` None is one of the gateway's own endpoints."""
    verified = await gw.tokens.check(None if route is None else route.project_id, text, ex.at_ms / 1000)
    if isinstance(verified, Rejection):
        return _REFUSALS[verified]
    user, tier_name, scopes = verified.identity
    if route is not None and not route.scopes <= scopes:
        return _lacking(route)
    project_id, mode = verified.issuer.project_id, verified.issuer.spec.mode.value
    snapshot = gw.snapshot
    try:
        customer = snapshot.known_end_user(project_id, mode, user) or await snapshot.end_user(project_id, mode, user)
        tier = customer.tier
        if tier_name is not None:
            tier = await snapshot.tier(project_id, mode, tier_name)
            if tier is None:
                detail = "The token's plan names no tier of this project."
                return Refusal(problems.TIER_UNKNOWN, b"", Admission.FORBIDDEN, detail)
    except Unavailable:
        return _UNAVAILABLE
    return Bearer(project_id, mode, customer, tier, verified.expires_at)


def _lacking(route: Route) -> Refusal:
    wanted = " ".join(sorted(route.scopes))
    challenge = f'WWW-Authenticate: Bearer realm="tollgate", error="insufficient_scope", scope="{wanted}"\r\n'
    detail = "This token lacks a scope that the route asks for."
    return Refusal(problems.SCOPE_MISSING, challenge.encode(), Admission.FORBIDDEN, detail)
