"""The life of a request: match → authenticate → admit → forward → count → settle.

`serve` is that life, from the parsed head to the usage event. It is a coroutine driven by hand (gateway.exchange): each
`await suspend()` ends when Redis, the upstream or the client has something to say. Bodies do not pass through it; the two
connections hand their bytes to each other meanwhile.

What the decision about a caller needs is kept in a `Caller`: a keep-alive connection that repeats its header section byte
for byte, on the same route, with nothing changed in the snapshot since, is the same caller and is not worked out again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.auth.access import refusal
from gateway.auth.extract import Absent, Credential, extract, without_parameter
from gateway.exchange import BodyTooLarge, ClientGone, suspend
from gateway.limits.decide import ADMITTED, Denial, denial_of, limit_headers
from gateway.limits.limiter import UNAVAILABLE
from gateway.limits.plan import Plan, make_plan
from gateway.metering.event import event_of
from gateway.metrics import Admission
from gateway.proxy.headers import safe_value, to_upstream
from gateway.proxy.retry import may_retry
from gateway.proxy.upstream import UpstreamBroken
from gateway.store.nouns import Customer, Principal, Route, Tier
from gateway.store.snapshot import Unavailable
from ledger import problems
from ledger.events import Outcome
from ledger.keys import KeyKind, hash_key, is_well_formed

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.exchange import Exchange
    from gateway.http1.fields import Fields
    from gateway.limits.limiter import Limiter
    from gateway.metrics import Metrics
    from gateway.proxy.pool import Pool, Pools
    from gateway.proxy.upstream import Response, UpstreamConnection
    from gateway.store.snapshot import Snapshot
    from ledger.problems import Problem

_CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="tollgate"\r\n'
_BAD_CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="tollgate", error="invalid_token"\r\n'
_RETRY_SOON: Final = b"Retry-After: 1\r\n"
_MAX_EXTERNAL_ID: Final = 200


@dataclass(slots=True, eq=False)
class Gateway:
    """What every request of a worker process shares."""

    snapshot: Snapshot
    limiter: Limiter
    pools: Pools
    clock: Clock
    metrics: Metrics
    name: str
    shards: int
    trust_forwarded: bool
    is_draining: bool = False


@dataclass(slots=True, eq=False)
class Refusal:
    """A request that goes no further: the problem, further header lines, and how it is counted."""

    problem: Problem
    headers: bytes = b""
    counted_as: Admission = Admission.UNAUTHENTICATED
    detail: str | None = None
    violated: str | None = None


@dataclass(slots=True, eq=False)
class Caller:
    """Who makes a request on a route, and what follows from it, for as long as nothing of it changes.

    `tail` is the upstream request's field lines from after Host to before X-Request-Id; `good_until` is Unix seconds.
    """

    fields: Fields
    route: Route
    generation: int
    good_until: float
    plan: Plan
    tail: bytes


async def serve(gw: Gateway, ex: Exchange) -> None:
    """The life of a proxied request."""
    line, fields, client = ex.line, ex.fields, ex.client

    # match
    route = gw.snapshot.table.match(fields.host, line.path, line.method)
    if not isinstance(route, Route):
        return refuse(gw, ex, _no_route(gw, route))
    spec = route.spec
    if spec.max_body_bytes is not None:
        ex.max_body = spec.max_body_bytes
        if fields.content_length is not None and fields.content_length > ex.max_body:
            return refuse(gw, ex, Refusal(problems.BODY_TOO_LARGE, counted_as=Admission.FORBIDDEN))

    # authenticate
    caller = client.caller
    if (
        caller is None
        or caller.fields is not fields
        or caller.route is not route
        or caller.generation != gw.snapshot.generation
        or caller.good_until * 1000 <= ex.at_ms
        or route.key_query is not None
    ):
        found = await identify(gw, ex, route)
        if isinstance(found, Refusal):
            return refuse(gw, ex, found)
        client.caller = caller = found
    plan = caller.plan

    # admit
    limits = await admit(gw, ex, plan)
    if isinstance(limits, Refusal):
        return refuse(gw, ex, limits)

    # forward, count, settle
    outcome, is_charged = Outcome.COMPLETED, False
    try:
        response = await _forward(gw, ex, caller)
        ex.status = response.status
        client.start_response(ex, response.lead, limits, response.framing)
        await suspend()
        client.end_body(ex.response_trailers)
        is_charged = True
    except UpstreamBroken as broken:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, broken.was_connected
        if ex.response_started:
            client.abort()
        else:
            retry = _RETRY_SOON if broken.problem.status == 503 else b""
            answer(ex, broken.problem, limits + retry)
    except BodyTooLarge:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, ex.sent_ns > 0
        _drop_upstream(ex)
        if ex.response_started:
            client.abort()
        else:
            answer(ex, problems.BODY_TOO_LARGE, limits)
    except ClientGone:
        outcome, is_charged = Outcome.CLIENT_GONE, ex.sent_ns > 0
        ex.status = ex.status or 499
        _drop_upstream(ex)
    except Exception:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, ex.sent_ns > 0
        ex.status = 500
        raise
    finally:
        now_ns = time.monotonic_ns()
        event = event_of(ex, plan.identity, plan.meters, outcome, now_ns, is_charged=is_charged)
        gw.limiter.settle(ex, event, is_charged=is_charged)
        _measure(gw, ex, route, now_ns)


# -- refusing


def refuse(gw: Gateway, ex: Exchange, refusal: Refusal) -> None:
    """Answer a request that goes no further."""
    gw.metrics.admissions[refusal.counted_as] += 1
    members = {} if refusal.violated is None else {"violated_policies": [refusal.violated]}
    answer(ex, refusal.problem, refusal.headers, refusal.detail, **members)


def answer(ex: Exchange, problem: Problem, headers: bytes = b"", detail: str | None = None, **members: Any) -> None:
    """Answer with a problem document."""
    body = problem.body(ex.id.decode(), detail, **members)
    ex.status = problem.status
    ex.client.respond(ex, problem.status, b"Content-Type: application/problem+json\r\n" + headers, body)


def _no_route(gw: Gateway, allowed: frozenset[bytes] | None) -> Refusal:
    if allowed:
        allow = b"Allow: %b\r\n" % b", ".join(sorted(allowed))
        return Refusal(problems.METHOD_NOT_ALLOWED, allow, Admission.NO_ROUTE)
    if not gw.snapshot.is_loaded:
        return Refusal(problems.STARTING, _RETRY_SOON, Admission.UNAVAILABLE)
    return Refusal(problems.NOT_FOUND, b"", Admission.NO_ROUTE)


# -- who is it


async def identify(gw: Gateway, ex: Exchange, route: Route) -> Caller | Refusal:
    """The caller of a request on a route, or why there is none."""
    snapshot = gw.snapshot
    generation = snapshot.generation
    now = ex.at_ms / 1000
    principal: Principal | None = None
    field = b""
    if route.spec.auth == "key":
        credential = extract(ex.fields, ex.line.query, route.key_header, route.key_query)
        if isinstance(credential, Absent):
            return refusal_of(credential)
        checked = await authenticate(gw, ex, credential, route)
        if isinstance(checked, Refusal):
            return checked
        principal, field = checked, credential.field
        mode = principal.mode
    else:
        mode = "live"
    who = await customer_of(gw, ex, principal)
    if isinstance(who, Refusal):
        return who
    customer, tier = who
    plan = _plan(gw, generation, route, mode, principal, customer, tier, now)
    good_until = float(plan.period_end)
    if principal is not None and principal.expires_at is not None:
        good_until = min(good_until, principal.expires_at)
    tail = to_upstream(ex.fields, field) + ex.client.forwarded_lines(ex.fields)
    if customer is not None:
        tail += b"X-User-Id: %b\r\n" % safe_value(customer.external_id or customer.id)
    if ex.fields.chunked:
        tail += b"Transfer-Encoding: chunked\r\n"
    return Caller(ex.fields, route, generation, good_until, plan, tail)


def refusal_of(absent: Absent) -> Refusal:
    """The answer to a request without exactly one credential."""
    if absent is Absent.CONFLICT:
        return Refusal(problems.CONFLICTING_CREDENTIALS, _BAD_CHALLENGE)
    return Refusal(problems.NO_CREDENTIAL, _CHALLENGE)


async def authenticate(gw: Gateway, ex: Exchange, credential: Credential, route: Route | None) -> Principal | Refusal:
    """The principal behind a credential, if it may do what the request asks."""
    if not is_well_formed(credential.text):
        return Refusal(problems.BAD_CREDENTIAL, _BAD_CHALLENGE)
    key_hash = hash_key(credential.text)
    principal = gw.snapshot.known(key_hash)
    if principal is None:
        if gw.snapshot.is_known_unknown(key_hash):
            return Refusal(problems.BAD_CREDENTIAL, _BAD_CHALLENGE)
        try:
            principal = await gw.snapshot.principal(key_hash)
        except Unavailable:
            return Refusal(problems.AUTH_UNAVAILABLE, _RETRY_SOON, Admission.UNAVAILABLE)
        if principal is None:
            return Refusal(problems.BAD_CREDENTIAL, _BAD_CHALLENGE)
    problem = refusal(principal, route, ex.line.method, ex.fields, ex.client.peer_ip, ex.at_ms / 1000)
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
        return Refusal(problems.AUTH_UNAVAILABLE, _RETRY_SOON, Admission.UNAVAILABLE)
    return customer, tier


def _plan(
    gw: Gateway,
    generation: int,
    route: Route,
    mode: str,
    principal: Principal | None,
    customer: Customer | None,
    tier: Tier | None,
    now: float,
) -> Plan:
    """The remembered plan of (key, customer, tier, route), or a new one."""
    holder: Customer | Principal | Route = customer or principal or route
    key = (principal.key_id if principal else None, tier.id if tier else None, route.id)
    plan: Plan | None = holder.plans.get(key)
    if plan is None or plan.route is not route or plan.period_end <= now:
        plan = make_plan(
            generation=generation,
            project_id=route.project_id,
            mode=mode,
            principal=principal,
            customer=customer,
            tier=tier,
            route=route,
            meters=route.spec.meters,
            now=now,
            shards=gw.shards,
            gateway=gw.name,
        )
        holder.plans[key] = plan
    return plan


# -- may they


async def admit(gw: Gateway, ex: Exchange, plan: Plan) -> bytes | Refusal:
    """Reserve what the request will use; the rate-limit header lines of its answer, or the refusal."""
    if plan.denial is not None:
        if plan.denied_until > time.monotonic():
            return _denied(plan.denial)
        plan.denial = None
    if gw.limiter.is_full:
        return Refusal(problems.BACKLOG_FULL, _RETRY_SOON, Admission.UNAVAILABLE)
    if not gw.limiter.ask(ex, plan):
        return Refusal(problems.LIMITS_UNAVAILABLE, _RETRY_SOON, Admission.UNAVAILABLE)
    reply = await suspend()
    if reply is UNAVAILABLE:
        return Refusal(problems.LIMITS_UNAVAILABLE, _RETRY_SOON, Admission.UNAVAILABLE)
    if reply[0] == ADMITTED:
        gw.metrics.admissions[Admission.ADMITTED] += 1
        return limit_headers(plan, reply)
    denial, for_s = denial_of(plan, reply)
    plan.denial, plan.denied_until = denial, time.monotonic() + for_s
    return _denied(denial)


def _denied(denial: Denial) -> Refusal:
    by_rate = denial.problem is problems.RATE_LIMITED
    counted_as = Admission.RATE_LIMITED if by_rate else Admission.QUOTA_EXCEEDED
    headers = denial.headers + b"Retry-After: %d\r\n" % denial.wait_s
    what = "requests in 60 s" if by_rate else f"{denial.violated} in this period"
    detail = f"The limit of {denial.limit} {what} is reached. Try again in {denial.wait_s} s."
    return Refusal(denial.problem, headers, counted_as, detail, denial.violated)


# -- forward it


async def _forward(gw: Gateway, ex: Exchange, caller: Caller) -> Response:
    """Send the request to an upstream and wait for the head of its answer; tries again only where that is safe."""
    line, route = ex.line, caller.route
    spec = route.spec
    path = line.path
    if spec.strip_prefix and not route.is_exact:
        path = path[len(route.prefix) - 1 :]
    query = line.query
    if route.key_query is not None and query:
        query = without_parameter(query, route.key_query)
    if query is not None:
        path = b"%b?%b" % (path, query)
    if route.pools is None:
        route.pools = gw.pools.of(route.upstream)
    ex.read_timeout = spec.read_timeout_ms / 1000
    if spec.total_timeout_ms is not None:
        ex.total_deadline = gw.clock.now + spec.total_timeout_ms / 1000
    if b"expect" in ex.fields.index and not ex.body_done:
        ex.client.send_continue()
    tries_left = spec.retries
    while True:
        pool: Pool = route.pools.next()
        host = b"Host: %b\r\n" % ex.fields.host if spec.preserve_host and ex.fields.host else pool.host_line
        head = b"%b %b%b HTTP/1.1\r\n%b%bX-Request-Id: %b\r\n\r\n" % (
            line.method,
            pool.base_path,
            path,
            host,
            caller.tail,
            ex.id,
        )
        try:
            connection = pool.idle() or await _connect(ex, pool)
            ex.sent_ns = time.monotonic_ns()
            connection.send(ex, head)
            response: Response = await suspend()
            return response
        except UpstreamBroken as broken:
            had_body = ex.bytes_in > 0 or not ex.body_done
            if not tries_left or not may_retry(
                was_connected=broken.was_connected, was_reused=broken.was_reused, method=line.method, has_body=had_body
            ):
                raise
            tries_left -= 1
            ex.upstream = None


async def _connect(ex: Exchange, pool: Pool) -> UpstreamConnection:
    opening = pool.open()
    try:
        return await opening
    except (ClientGone, BodyTooLarge):
        pool.abandon(opening)
        raise


def _drop_upstream(ex: Exchange) -> None:
    if ex.upstream is not None:
        ex.upstream.abort()
        ex.upstream = None


# -- count it


def _measure(gw: Gateway, ex: Exchange, route: Route, now_ns: int) -> None:
    metrics = route.metrics
    if metrics is None:
        metrics = route.metrics = gw.metrics.route(route.name)
    metrics.classes[ex.status // 100] += 1
    sent_ns = ex.sent_ns or now_ns
    metrics.gateway.observe((sent_ns - ex.started_ns) // 1000)
    metrics.upstream.observe((now_ns - sent_ns) // 1000)
