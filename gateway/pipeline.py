"""The life of a request: match → authenticate → admit → forward → count → settle.

`serve` is that life, from the parsed head to the usage event. It is a coroutine driven by hand (gateway.exchange): each
`await suspend()` ends when Redis, the upstream or the client has something to say. Bodies do not pass through it; the two
connections hand their bytes to each other meanwhile.

What the decision about a caller needs is kept in a `Caller`: a keep-alive connection that repeats its header section byte
for byte, on the same route, with nothing changed in the snapshot since, is the same caller and is not worked out again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.auth.access import refusal
from gateway.auth.extract import Absent, Credential, extract, without_parameter
from gateway.exchange import BodyTooLarge, ClientGone, suspend
from gateway.limits.decide import ADMITTED, Denial, denial_of, limit_headers
from gateway.limits.plan import Plan, make_plan
from gateway.metering.count import NOTHING, quantities
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
from ledger.specs import AuthMode

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.exchange import Exchange
    from gateway.http1.fields import Fields
    from gateway.http1.request import RequestLine
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

    `tail` is the upstream request's field lines from after Host to before X-Request-Id, `heads` the whole head up to
    there for each origin it has been sent to; `good_until_ms` is Unix milliseconds.
    """

    line: RequestLine
    fields: Fields
    route: Route
    generation: int
    good_until_ms: float
    plan: Plan
    tail: bytes
    heads: dict[Pool, bytes] = field(default_factory=dict)


async def serve(gw: Gateway, ex: Exchange) -> None:
    """The life of a proxied request."""
    client = ex.client

    # match and authenticate, unless it is the same caller with the same request line as before
    caller = client.caller
    if (
        caller is None
        or caller.line is not ex.line
        or caller.fields is not ex.fields
        or caller.generation != gw.snapshot.generation
        or caller.good_until_ms <= ex.at_ms
    ):
        found = await recognise(gw, ex, caller)
        if isinstance(found, Refusal):
            return refuse(gw, ex, found)
        client.caller = caller = found
    route, plan = caller.route, caller.plan

    # admit
    refusal = ask(gw, ex, plan)
    if refusal is not None:
        return refuse(gw, ex, refusal)
    limits = verdict(gw, plan, await suspend())
    if isinstance(limits, Refusal):
        return refuse(gw, ex, limits)

    # forward
    outcome, is_charged = Outcome.COMPLETED, False
    try:
        prepare(gw, ex, route)
        pool = route.pools.next()
        try:
            connection = pool.idle() or await connect(ex, pool)
            connection.send(ex, upstream_head(caller, pool, ex.id))
            response = await suspend()
        except UpstreamBroken as broken:
            response = await try_again(ex, caller, broken)
        ex.status = response.status
        client.start_response(ex, response.lead, limits, response.framing)
        await suspend()  # the bodies pass
        client.end_body(ex.response_trailers)
        is_charged = True
    except UpstreamBroken as broken:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, broken.was_connected
        if ex.response_started:
            client.abort()
        else:
            answer(ex, broken.problem, limits + (_RETRY_SOON if broken.problem.status == 503 else b""))
    except BodyTooLarge:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, ex.sent_ns > 0
        drop_upstream(ex)
        if ex.response_started:
            client.abort()
        else:
            answer(ex, problems.BODY_TOO_LARGE, limits)
    except ClientGone:
        outcome, is_charged = Outcome.CLIENT_GONE, ex.sent_ns > 0
        ex.status = ex.status or 499
        drop_upstream(ex)
    except Exception:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, ex.sent_ns > 0
        ex.status = 500
        raise

    # count and settle
    finally:
        now_ns = time.monotonic_ns()
        meters = quantities(plan.meters_json, ex.bytes_in, ex.bytes_out) if is_charged else NOTHING
        gw.limiter.settle(ex, event_of(ex, plan.identity, meters, outcome, now_ns), is_charged=is_charged)
        sent_ns = ex.sent_ns or now_ns
        gw.metrics.of_route(route).answered(ex.status, (sent_ns - ex.started_ns) // 1000, (now_ns - sent_ns) // 1000)


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


async def recognise(gw: Gateway, ex: Exchange, last: Caller | None) -> Caller | Refusal:
    """Match the route and identify who asks; `last` is who used this connection before."""
    line, fields = ex.line, ex.fields
    route = gw.snapshot.table.match(fields.host, line.path, line.method)
    if not isinstance(route, Route):
        return _no_route(gw, route)
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
        return Caller(line, fields, route, generation, last.good_until_ms, last.plan, last.tail)
    return await identify(gw, ex, route, generation)


async def identify(gw: Gateway, ex: Exchange, route: Route, generation: int) -> Caller | Refusal:
    """The caller of a request on a route, or why there is none."""
    now = ex.at_ms / 1000
    principal: Principal | None = None
    carried_by = b""
    mode = "live"
    if route.spec.auth is AuthMode.KEY:
        credential = extract(ex.fields, ex.line.query, route.key_header, route.key_query)
        if isinstance(credential, Absent):
            return refusal_of(credential)
        checked = await authenticate(gw, ex, credential, route)
        if isinstance(checked, Refusal):
            return checked
        principal, carried_by, mode = checked, credential.field, checked.mode
    who = await customer_of(gw, ex, principal)
    if isinstance(who, Refusal):
        return who
    customer, tier = who
    plan = _plan(gw, generation, route, mode, principal, customer, tier, now)
    good_until = float(plan.period_end)
    if principal is not None and principal.expires_at is not None:
        good_until = min(good_until, principal.expires_at)
    tail = to_upstream(ex.fields, carried_by) + ex.client.forwarded_lines(ex.fields)
    if customer is not None:
        tail += b"X-User-Id: %b\r\n" % safe_value(customer.external_id or customer.id)
    if ex.fields.chunked:
        tail += b"Transfer-Encoding: chunked\r\n"
    return Caller(ex.line, ex.fields, route, generation, good_until * 1000, plan, tail)


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


def ask(gw: Gateway, ex: Exchange, plan: Plan) -> Refusal | None:
    """Ask for all that the request will use; the verdict comes to the exchange. Or refuse, if asking is no use."""
    if plan.denial is not None:
        if plan.denied_until > time.monotonic():
            return _denied(plan.denial)
        plan.denial = None
    if gw.limiter.is_full:
        return Refusal(problems.BACKLOG_FULL, _RETRY_SOON, Admission.UNAVAILABLE)
    if not gw.limiter.ask(ex, plan):
        return Refusal(problems.LIMITS_UNAVAILABLE, _RETRY_SOON, Admission.UNAVAILABLE)
    return None


def verdict(gw: Gateway, plan: Plan, reply: list[int] | None) -> bytes | Refusal:
    """The rate-limit header lines of an admitted request, or the refusal; `reply` None means that Redis gave none."""
    if reply is None:
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


def prepare(gw: Gateway, ex: Exchange, route: Route) -> None:
    """Set what forwarding on this route needs: pools, deadlines, body limit."""
    spec = route.spec
    if route.pools is None:
        route.pools = gw.pools.of(route.upstream)
    ex.read_timeout = route.read_timeout
    if spec.total_timeout_ms is not None:
        ex.total_deadline = gw.clock.now + spec.total_timeout_ms / 1000
    if not ex.body_done:
        if spec.max_body_bytes is not None:
            ex.max_body = spec.max_body_bytes
        if ex.line.minor and b"expect" in ex.fields.index:
            ex.client.send_continue()


def upstream_head(caller: Caller, pool: Pool, request_id: bytes) -> bytes:
    """The head to send to an origin."""
    head = caller.heads.get(pool)
    if head is None:
        line, route = caller.line, caller.route
        path, query = line.path, line.query
        if route.spec.strip_prefix and not route.is_exact:
            path = path[len(route.prefix) - 1 :]
        if route.key_query is not None and query:
            query = without_parameter(query, route.key_query)
        if query is not None:
            path = b"%b?%b" % (path, query)
        host = caller.fields.host if route.spec.preserve_host else None
        host_line = b"Host: %b\r\n" % host if host else pool.host_line
        head = b"%b %b%b HTTP/1.1\r\n%b%bX-Request-Id: " % (line.method, pool.base_path, path, host_line, caller.tail)
        caller.heads[pool] = head
    return b"%b%b\r\n\r\n" % (head, request_id)


async def connect(ex: Exchange, pool: Pool) -> UpstreamConnection:
    """A connection of a pool that has no idle one."""
    opening = pool.open()
    try:
        return await opening
    except (ClientGone, BodyTooLarge):
        pool.abandon(opening)
        raise


async def try_again(ex: Exchange, caller: Caller, broken: UpstreamBroken) -> Response:
    """Send a request once more, or several times, where no upstream can have acted on it; else raise `broken`."""
    route = caller.route
    for _ in range(route.spec.retries):
        if not may_retry(
            was_connected=broken.was_connected,
            was_reused=broken.was_reused,
            method=caller.line.method,
            has_body=ex.bytes_in > 0 or not ex.body_done,
        ):
            break
        ex.upstream = None
        pool = route.pools.next()
        try:
            connection = pool.idle() or await connect(ex, pool)
            connection.send(ex, upstream_head(caller, pool, ex.id))
            response: Response = await suspend()
            return response
        except UpstreamBroken as again:
            broken = again
    raise broken


def drop_upstream(ex: Exchange) -> None:
    """Break off what the upstream is doing for an exchange."""
    if ex.upstream is not None:
        ex.upstream.abort()
        ex.upstream = None
