"""Who makes a request: match the route, check the key or token, find the customer, remember the result.

`recognise` is asked once per connection and kind of request; its `Caller` is used again while the client repeats the same
head on the same connection and nothing of it has changed in the snapshot. `recall` is the short way for fields that are
known but for the key in them (gateway.memory). Failure: a `Refusal`, never an exception.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.auth.access import refusal
from gateway.auth.extract import Absent, extract
from gateway.bearers import bearer_of, is_token
from gateway.context import RETRY_SOON, Gateway, Refusal
from gateway.limits.plan import the_one
from gateway.memory import Caller, SharedBlock
from gateway.metrics import Admission
from gateway.plans import plan_for_address, plan_of
from gateway.principals import authenticate, customer_of, refusal_of
from gateway.proxy.cors import ANSWER_FIELDS, permission, preflight, wanted_method
from gateway.proxy.headers import asks_for_websocket, safe_value, to_upstream, without
from gateway.proxy.shape import Shape
from gateway.store.credentials import UNAVAILABLE
from gateway.store.nouns import Customer, Principal, Route, Tier
from gateway.store.snapshot import Unavailable
from ledger import problems
from ledger.keys import hash_key, is_well_formed
from ledger.restrictions import is_address_allowed
from ledger.specs import AuthMode

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.http1.fields import Fields

_NAMING_A_USER: Final = (b"x-user-id", b"x-user-plan")


def recall(gw: Gateway, ex: Exchange) -> Caller | None:
    """The caller of a request whose fields are known but for the key in them; None, and all fields read, if that fails.

    The fields passed every check on this route before, with this method and from this address; what depends on the key is
    looked at here.
    """
    client, line, snapshot = ex.client, ex.line, gw.snapshot
    shared: SharedBlock | None = client.shared
    if shared is None:
        return None
    fields = shared.fields
    principal = snapshot.known(hash_key(client.key_text))
    if principal is not None:
        last: Caller | None = principal.recalled
        if (
            last is not None
            and last.line is line
            and last.fields is fields
            and last.generation == snapshot.generation
            and last.good_until_ms > ex.at_ms
        ):
            client.caller = last
            return last
    route = snapshot.table.match(fields.host, line.path, line.method)
    known = shared.routes.get((route, line.method)) if isinstance(route, Route) else None
    if (
        known is None
        or principal is None
        or not isinstance(route, Route)
        or (route.key_query is not None and line.query is not None)  # which may hold a second key
        or known.generation != snapshot.generation
        or refusal(principal, route, line.method, fields, client.sender(fields).address, ex.at_ms / 1000) is not None
        or (principal.customer is None and not fields.index.keys().isdisjoint(_NAMING_A_USER))
    ):
        client.read_fully(ex)
        return None
    customer = principal.customer
    tier = customer.tier if customer is not None else None
    plan = plan_of(
        gw,
        known.generation,
        route,
        principal.mode,
        principal,
        customer,
        tier,
        ex.at_ms / 1000,
        is_websocket=known.is_websocket,
    )
    good_until = plan.period_end if principal.expires_at is None else min(plan.period_end, principal.expires_at)
    caller = Caller(
        line,
        fields,
        client.peer_ip,
        route,
        known.generation,
        the_one(good_until * 1000),
        plan,
        known.tail,
        known.is_websocket,
        known.shape,
        known.heads_of(line),
        _user_line(customer, route),
        holds=gw.caps.holds(route, customer, tier),
    )
    client.caller = principal.recalled = caller
    return caller


@dataclass(slots=True, eq=False)
class Preflight:
    """A browser's question whether a page may make a request; `headers` are the answer's lines."""

    headers: bytes


async def recognise(gw: Gateway, ex: Exchange, last: Caller | None) -> Caller | Refusal | Preflight:
    """Match the route and identify who asks; `last` is who used this connection before."""
    line, fields = ex.line, ex.fields
    match = gw.snapshot.table.match
    asked = wanted_method(line, fields)
    if asked is not None:
        route = match(fields.host, line.path, asked)
        if isinstance(route, Route) and route.spec.cors is not None:
            return _stopped(ex, route) or Preflight(preflight(route.spec, route.spec.cors, asked, fields))
    route = match(fields.host, line.path, line.method)
    if not isinstance(route, Route):
        return _no_route(gw, route)
    found = await _on_route(gw, ex, route, last)
    if isinstance(found, Refusal) and route.spec.cors is not None:  # the page may read why
        return replace(found, headers=found.headers + permission(route.spec.cors, fields))
    return found


def _stopped(ex: Exchange, route: Route) -> Refusal | None:
    """Why nobody from where a request comes may use a route, if so."""
    spec = route.spec
    if not spec.allow_ips and not spec.deny_ips:
        return None
    address = ex.client.sender(ex.fields).address
    if is_address_allowed(address, spec.deny_ips) or (
        spec.allow_ips and not is_address_allowed(address, spec.allow_ips)
    ):
        return Refusal(problems.ADDRESS_REFUSED, counted_as=Admission.FORBIDDEN)
    return None


async def _on_route(gw: Gateway, ex: Exchange, route: Route, last: Caller | None) -> Caller | Refusal:
    line, fields = ex.line, ex.fields
    stopped = _stopped(ex, route)
    if stopped is not None:
        return stopped
    if route.injected is UNAVAILABLE:
        return Refusal(problems.CREDENTIAL_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE)
    widest = route.spec.max_header_bytes
    if widest is not None and len(fields.raw) > widest:
        return Refusal(problems.HEADERS_TOO_LARGE, counted_as=Admission.FORBIDDEN)
    largest = route.spec.max_body_bytes
    if largest is not None and fields.content_length is not None and fields.content_length > largest:
        return Refusal(problems.BODY_TOO_LARGE, counted_as=Admission.FORBIDDEN)
    generation = gw.snapshot.generation
    if (
        last is not None
        and last.fields is fields
        and last.route is route
        and last.line.method == line.method
        and last.generation == generation
        and last.good_until_ms > ex.at_ms
        and route.key_query is None
    ):
        return Caller(
            line,
            fields,
            last.peer_ip,
            route,
            generation,
            last.good_until_ms,
            last.plan,
            last.tail,
            last.is_websocket,
            last.shape,
            user_line=last.user_line,
            carried_by=last.carried_by,
            is_shareable=last.is_shareable,
            holds=last.holds,
        )
    return await identify(gw, ex, route, generation)


async def identify(gw: Gateway, ex: Exchange, route: Route, generation: int) -> Caller | Refusal:
    """The caller of a request on a route, or why there is none."""
    now = ex.at_ms / 1000
    principal: Principal | None = None
    carried_by = b""
    is_shareable = False
    mode = "live"
    expires_at: float | None = None
    customer: Customer | None = None
    tier: Tier | None = None
    auth = route.spec.auth
    if auth is not AuthMode.NONE:
        credential = extract(ex.fields, ex.line.query, route.key_header, route.key_query)
        if isinstance(credential, Absent):
            return refusal_of(credential, auth)
        carried_by = credential.field
        if is_token(credential.text, auth):
            bearer = await bearer_of(gw, ex, credential.text, route)
            if isinstance(bearer, Refusal):
                return bearer
            _, mode, customer, tier, expires_at = bearer
        else:
            checked = await authenticate(gw, ex, credential, route)
            if isinstance(checked, Refusal):
                return checked
            principal, mode, expires_at = checked, checked.mode, checked.expires_at
            who = await customer_of(gw, ex, principal)
            if isinstance(who, Refusal):
                return who
            customer, tier = who
            is_shareable = (
                bool(carried_by)
                and credential.text == ex.client.key_text
                and customer is principal.customer
                and ex.fields.raw.count(credential.text) == 1  # a second one, elsewhere, would pass for the first
                and ex.line.method != b"OPTIONS"  # its fields may ask for another method's route
            )
    else:  # a key that is sent all the same is not for the upstream to see
        carried_by = next((name for name, value, _ in ex.fields.items if is_well_formed(value.split(b" ")[-1])), b"")
    is_websocket = route.spec.websocket and asks_for_websocket(ex.line, ex.fields)
    if route.spec.requests_per_minute_per_ip is None:
        plan = plan_of(gw, generation, route, mode, principal, customer, tier, now, is_websocket=is_websocket)
    else:
        plan = plan_for_address(gw, generation, route, ex, now, is_websocket=is_websocket)
    good_until = float(plan.period_end)
    if expires_at is not None:
        good_until = min(good_until, expires_at)
    tail = to_upstream(ex.fields, carried_by, route.replaced) + ex.client.sender(ex.fields).lines()
    if route.replaced:
        tail = without(tail, route.replaced) + route.added_lines
    else:
        tail += route.added_lines
    if gw.sandbox is not None and gw.sandbox.is_behind(route.upstream):
        kind = "none" if auth is AuthMode.NONE else "jwt" if principal is None else principal.kind
        tail += gw.sandbox.lines(route.project_id, mode, customer.id if customer is not None else "", kind)
        is_shareable = False  # who it is stands in the tail
    if ex.fields.chunked:
        tail += b"Transfer-Encoding: chunked\r\n"
    if is_websocket:
        tail += b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    until_ms = good_until * 1000
    return Caller(
        ex.line,
        ex.fields,
        ex.client.peer_ip,
        route,
        generation,
        until_ms,
        plan,
        tail,
        is_websocket,
        _shape(route, ex.fields),
        user_line=_user_line(customer, route),
        carried_by=carried_by,
        is_shareable=is_shareable,
        holds=gw.caps.holds(route, customer, tier),
    )


def _user_line(customer: Customer | None, route: Route) -> bytes:
    if customer is None or b"x-user-id" in route.replaced:
        return b""
    return b"X-User-Id: %b\r\n" % safe_value(customer.external_id or customer.id)


def _shape(route: Route, fields: Fields) -> Shape | None:
    cors = route.spec.cors
    if cors is not None:
        return Shape(route.answer_dropped | ANSWER_FIELDS, route.answer_lines, permission(cors, fields))
    if route.shape is None and (route.answer_dropped or route.answer_lines):
        route.shape = Shape(route.answer_dropped, route.answer_lines)
    shape: Shape | None = route.shape
    return shape


def is_as_it_was(gw: Gateway, caller: Caller) -> bool:
    """True if nothing that a caller's key and customer allow has changed since it was recognised. No I/O."""
    principal, customer = caller.plan.principal, caller.plan.customer
    if principal is None or gw.snapshot.generation == caller.generation:
        return True  # what a token says holds as long as the token
    if gw.snapshot.known(principal.key_hash) is not principal:
        return False
    if customer is None or principal.customer is customer or customer.external_id is None:
        return True
    where = (principal.project_id, principal.mode, customer.external_id)
    return gw.snapshot.known_end_user(*where) is customer


async def look_again(gw: Gateway, ex: Exchange, caller: Caller) -> Caller | None:
    """A caller whose request is long, as it is now: with the tier and the limits of today; None if it may not go on.

    Raises Unavailable. The route stays the one that it came by.
    """
    was = caller.plan.principal
    assert was is not None
    generation, now = gw.snapshot.generation, time.time()
    principal = gw.snapshot.known(was.key_hash) or await gw.snapshot.principal(was.key_hash)
    address = ex.client.sender(ex.fields).address
    if principal is None or refusal(principal, caller.route, ex.line.method, ex.fields, address, now) is not None:
        return None
    who = await customer_of(gw, ex, principal)
    if isinstance(who, Refusal):
        if who.problem.status == 503:
            raise Unavailable(who.problem.code)
        return None
    plan = plan_of(gw, generation, caller.route, was.mode, principal, *who, now, is_websocket=caller.is_websocket)
    return replace(caller, plan=plan, generation=generation)


def _no_route(gw: Gateway, allowed: frozenset[bytes] | None) -> Refusal:
    if allowed:
        allow = b"Allow: %b\r\n" % b", ".join(sorted(allowed))
        return Refusal(problems.METHOD_NOT_ALLOWED, allow, Admission.NO_ROUTE)
    if not gw.snapshot.is_loaded:
        return Refusal(problems.STARTING, RETRY_SOON, Admission.UNAVAILABLE)
    return Refusal(problems.NOT_FOUND, b"", Admission.NO_ROUTE)
