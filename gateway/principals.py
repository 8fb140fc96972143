"""Whose credential a request carries, and whom it is counted for.

Failure: a `Refusal`, never an exception; while the store of keys is away, 503 for those that are not known already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.auth.access import refusal
from gateway.auth.extract import Absent, Credential
from gateway.context import RETRY_SOON, Gateway, Refusal
from gateway.metrics import Admission
from gateway.store.snapshot import Unavailable
from ledger import problems
from ledger.keys import KeyKind, hash_key, is_well_formed
from ledger.specs import AuthMode

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.store.nouns import Customer, Principal, Route, Tier

_CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="tollgate"\r\n'
_BAD_CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="tollgate", error="invalid_token"\r\n'
_WANTED: Final = {
    AuthMode.JWT: "Send a token: Authorization: Bearer <JWT>.",
    AuthMode.KEY_OR_JWT: "Send an API key or a token (JWT): Authorization: Bearer <key or token>.",
}
_MAX_EXTERNAL_ID: Final = 200


def refusal_of(absent: Absent, auth: AuthMode = AuthMode.KEY) -> Refusal:
    """The answer to a request without exactly one credential."""
    if absent is Absent.CONFLICT:
        return Refusal(problems.CONFLICTING_CREDENTIALS, _BAD_CHALLENGE)
    return Refusal(problems.NO_CREDENTIAL, _CHALLENGE, detail=_WANTED.get(auth))


async def authenticate(gw: Gateway, ex: Exchange, credential: Credential, route: Route | None) -> Principal | Refusal:
    """The principal behind a credential, if it may do what the request asks."""
    key_hash = hash_key(credential.text)
    principal = gw.snapshot.known(key_hash)
    if principal is None:
        if not is_well_formed(credential.text) or gw.snapshot.is_known_unknown(key_hash):
            return Refusal(problems.BAD_CREDENTIAL, _BAD_CHALLENGE)
        address = ex.client.sender(ex.fields).address
        wait_s = gw.strangers.wait_s(address, gw.clock.now)
        if wait_s:
            return Refusal(
                problems.TOO_MANY_UNKNOWN_KEYS, b"Retry-After: %d\r\n" % wait_s, Admission.RATE_LIMITED, None, "ip"
            )
        try:
            principal = await gw.snapshot.principal(key_hash)
        except Unavailable:
            return Refusal(problems.AUTH_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE)
        if principal is None:
            gw.strangers.failed(address, gw.clock.now)
            return Refusal(problems.BAD_CREDENTIAL, _BAD_CHALLENGE)
    problem = refusal(principal, route, ex.line.method, ex.fields, ex.client.sender(ex.fields).address, ex.at_ms / 1000)
    if problem is None:
        return principal
    if problem.status == 401:
        return Refusal(problem, _BAD_CHALLENGE)
    return Refusal(problem, b"", Admission.FORBIDDEN)


async def customer_of(
    gw: Gateway, ex: Exchange, principal: Principal | None
) -> tuple[Customer | None, Tier | None] | Refusal:
    """Whom a request is counted for, and under which tier.

    A customer key speaks for its customer. A secret key may name an end user (X-User-Id) and a plan (X-User-Plan); what
    any other caller writes there is ignored.
    """
    if principal is None:
        return None, None
    if principal.customer is not None:
        return principal.customer, principal.customer.tier
    if principal.kind != KeyKind.SECRET:
        return None, None
    index = ex.fields.index
    user, plan_name = index.get(b"x-user-id"), index.get(b"x-user-plan")
    if user is None and plan_name is None:
        return None, None
    if b"x-user-id" in ex.fields.repeated or b"x-user-plan" in ex.fields.repeated:
        return Refusal(problems.BAD_REQUEST, b"", Admission.FORBIDDEN, "X-User-Id and X-User-Plan may be given once.")
    if user is None or not 0 < len(user) <= _MAX_EXTERNAL_ID or not user.isascii() or b" " in user or b"\t" in user:
        detail = "X-User-Id is 1 to 200 visible ASCII characters, and X-User-Plan needs it."
        return Refusal(problems.BAD_REQUEST, b"", Admission.FORBIDDEN, detail)
    where = (principal.project_id, principal.mode, user.decode())
    try:
        customer = gw.snapshot.known_end_user(*where) or await gw.snapshot.end_user(*where)
        tier = customer.tier
        if plan_name is not None:
            tier = await gw.snapshot.tier(principal.project_id, principal.mode, plan_name.decode("latin-1"))
            if tier is None:
                return Refusal(problems.TIER_UNKNOWN, b"", Admission.FORBIDDEN)
    except Unavailable:
        return Refusal(problems.AUTH_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE)
    return customer, tier
