"""The life of a request: match → authenticate → admit → forward → count → settle.

`serve` is that life, from the parsed head to the usage event. It is a coroutine driven by hand (gateway.exchange): each
`await suspend()` ends when Redis, the upstream or the client has something to say. Bodies do not pass through it; the two
connections hand their bytes to each other meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.cached import through_cache
from gateway.callers import Preflight, recall, recognise
from gateway.context import RETRY_SOON, Gateway, Refusal
from gateway.exchange import BodyTooLarge, ClientGone, LimitReached, Tunnel, suspend
from gateway.forward import connect, drop_upstream, prepare, try_again, upstream_head
from gateway.http1.response import CHUNKED, LENGTH, NONE, TUNNEL
from gateway.limits.caps import Scope, take
from gateway.limits.decide import (
    ADMITTED,
    CONCURRENT,
    FULL,
    UNKNOWN,
    Denial,
    denial_of,
    later,
    limit_headers,
    upgrade_at,
    would_have_refused,
)
from gateway.limits.plan import BURST_MINUTES
from gateway.memory import Caller, TurnedAway
from gateway.metering.ask import (
    ANSWER_FIELDS,
    MAX_BODY,
    REQUEST_FIELDS,
    UsageHider,
    can_hide_usage,
    may_ask,
    with_usage,
)
from gateway.metering.count import NOTHING, flow_of, quantities
from gateway.metering.event import event_of
from gateway.metering.frames import MessageCounter
from gateway.metering.metering import Metering, as_json, measured
from gateway.metering.reader import AnswerReader
from gateway.metrics import Admission
from gateway.parts import Parts
from gateway.proxy.collector import collect
from gateway.proxy.headers import without
from gateway.proxy.upstream import UpstreamBroken
from ledger import problems
from ledger.events import Outcome
from ledger.specs import StoreFailure

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.limits.plan import Plan
    from gateway.proxy.upstream import Response
    from gateway.store.nouns import Route
    from ledger.problems import Problem


FROM_CACHE: Final = b',"notes":{"cache":"hit"}'
"""What the event of a request says that was answered with what is kept."""
_FREE_SOON_S: Final = 0.02
"""After which a place that was being left is free."""
_TOLD_FOR_S: Final = 0.1
"""How long a refusal is repeated word for word; the waiting time in it is then up to that much too long."""


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
        recalled = recall(gw, ex)
        if recalled is None:
            turned_away = client.turned_away
            if turned_away is not None and turned_away.is_for(ex, gw.snapshot.generation):
                return refuse(gw, ex, turned_away.refusal)
            found = await recognise(gw, ex, caller)
            if not isinstance(found, Caller):
                return turn_away(gw, ex, found)
            recalled = found
            client.remember(recalled)
        caller = recalled
    route, plan = caller.route, caller.plan

    # admit
    if caller.holds:
        full = take(ex, caller.holds)
        if full is not None:
            return refuse(gw, ex, too_many(full.limit, full.scope), caller.own_lines)
    limits = ask(gw, ex, plan)
    if limits is None:
        limits = verdict(gw, ex, plan, await suspend())
    if isinstance(limits, Refusal):
        if limits.violated == CONCURRENT:
            limits = await ask_again(gw, ex, plan)
        if isinstance(limits, Refusal):
            return refuse(gw, ex, limits, caller.own_lines)

    # forward
    outcome, is_charged = Outcome.COMPLETED, False
    try:
        prepare(gw, ex, route)
        hides_usage = False
        if plan.metering is not None and plan.metering.asks_for_usage and may_ask(ex.line, ex.fields):
            caller, hides_usage = await ask_for_usage(ex, caller)
        if caller.is_websocket:
            ex.tunnel = Tunnel(MessageCounter(), MessageCounter())
        if route.cache is None:
            ex.takes_whole = True
            pool = route.pools.next()
            try:
                connection = pool.idle() or await connect(ex, pool)
                connection.send(ex, upstream_head(caller, pool, ex.id))
                response = await suspend()
            except UpstreamBroken as broken:
                response = await try_again(gw, ex, caller, pool, broken)
        else:
            response = await through_cache(gw, ex, caller)
        ex.status = response.status
        lead = response.lead if caller.shape is None else caller.shape.lead(response)
        framing = response.framing
        if plan.metering is not None:
            ex.reader = reader = reader_of(plan.metering, response, ex.reader)
            if hides_usage and reader.has_body and can_hide_usage(response.fields):
                reader.editor = UsageHider()
                lead, framing = without(lead, ANSWER_FIELDS), CHUNKED if framing == LENGTH else framing
            if plan.metering.settle_every_s or (plan.metering.settle_every_messages and framing == TUNNEL):
                ex.parts = Parts(gw, ex, caller)
        if framing == TUNNEL:
            start_tunnel(ex, route, lead, limits)
        else:
            client.start_response(ex, lead, limits, framing)
        if ex.whole is None:
            await suspend()  # the bodies pass
        elif ex.whole:
            ex.response_data(ex.whole)
        if ex.reader is not None:
            if ex.parts is not None and ex.parts.ends_later():
                await suspend()
            ex.reader.pass_rest(ex)
        client.end_body(ex.response_trailers)
        is_charged = True
    except UpstreamBroken as broken:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, broken.was_connected
        if broken.problem is not problems.NOT_KEPT:
            gw.incidents.note(broken.problem.code, str(broken), route.name, ex.id)
        if ex.response_started:
            client.abort()
        else:
            limits += caller.own_lines
            if broken.problem.status == 503:
                limits += b"Retry-After: %d\r\n" % broken.retry_after_s
            answer(ex, broken.problem, limits)
    except LimitReached:
        outcome, is_charged = Outcome.LIMIT_REACHED, True
        if ex.status == 101:
            ex.body_done = False  # what it still sends is read: its close frame must not meet a closed socket
            if ex.upstream is not None:
                ex.upstream.close()
        else:
            drop_upstream(ex)
            client.abort()
    except BodyTooLarge:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, ex.sent_ns > 0
        drop_upstream(ex)
        if ex.response_started:
            client.abort()
        else:
            answer(ex, problems.BODY_TOO_LARGE, limits + caller.own_lines)
    except ClientGone:
        outcome, is_charged = Outcome.CLIENT_GONE, ex.sent_ns > 0
        ex.status = ex.status or 499
        if ex.status == 101 and ex.upstream is not None:
            outcome = Outcome.COMPLETED  # either side may end a WebSocket
            ex.upstream.close()
        else:
            drop_upstream(ex)
    except Exception:
        outcome, is_charged = Outcome.UPSTREAM_FAILED, ex.sent_ns > 0
        ex.status = 500
        raise

    # count and settle
    finally:
        now_ns = time.monotonic_ns()
        if plan.metering is not None:
            settle_measured(gw, ex, plan, outcome, now_ns, was_sent=is_charged)
        else:
            meters = quantities(plan.meters_json, ex) if is_charged else NOTHING
            identity = plan.identity + FROM_CACHE if ex.is_kept else plan.identity
            gw.limiter.settle(ex, event_of(ex, identity, meters, outcome, now_ns), is_charged=is_charged)
        sent_ns = ex.sent_ns or now_ns
        gw.metrics.of_route(route).answered(ex.status, (sent_ns - ex.started_ns) // 1000, (now_ns - sent_ns) // 1000)


# -- refusing


def turn_away(gw: Gateway, ex: Exchange, found: Refusal | Preflight) -> None:
    """Answer a request that nobody is recognised by; one without a valid credential is remembered."""
    if isinstance(found, Preflight):
        gw.metrics.counts["preflights_total"] += 1
        ex.client.respond(ex, 200, found.headers, b"")
        return
    if found.problem.status == 401:
        stranger = TurnedAway(ex.line, ex.fields, gw.snapshot.generation, ex.at_ms + 1000, found)
        ex.client.remember_stranger(stranger)
    refuse(gw, ex, found)


def refuse(gw: Gateway, ex: Exchange, refusal: Refusal, further: bytes = b"") -> None:
    """Answer a request that goes no further; `further` are lines of the answer beside the refusal's own."""
    gw.metrics.admissions[refusal.counted_as] += 1
    members: dict[str, Any] = {} if refusal.violated is None else {"violated_policies": [refusal.violated]}
    if refusal.upgrade_url is not None:
        members["upgrade_url"] = refusal.upgrade_url
    answer(ex, refusal.problem, refusal.headers + further, refusal.detail, **members)


def answer(ex: Exchange, problem: Problem, headers: bytes = b"", detail: str | None = None, **members: Any) -> None:
    """Answer with a problem document."""
    body = problem.body(ex.id.decode(), detail, **members)
    ex.status = problem.status
    ex.client.respond(ex, problem.status, b"Content-Type: application/problem+json\r\n" + headers, body)


# -- may they


def too_many(limit: int, scope: Scope, headers: bytes = b"") -> Refusal:
    """The refusal of a request for which too many are under way already."""
    headers += RETRY_SOON
    if scope is not Scope.CUSTOMER:
        return Refusal(problems.OVERLOADED, headers, Admission.OVERLOADED, None, CONCURRENT)
    detail = f"At most {limit} requests at once are included. Try again when one has ended."
    return Refusal(problems.TOO_MANY_AT_ONCE, headers, Admission.RATE_LIMITED, detail, CONCURRENT)


def ask(gw: Gateway, ex: Exchange, plan: Plan) -> bytes | Refusal | None:
    """Ask for all that the request will use; None: the verdict will come to the exchange. Or decide, if asking is no use."""
    if plan.denial is not None:
        now = time.monotonic()
        if plan.denied_until > now:
            if plan.refused_until <= now:
                reply, since = plan.denial
                plan.refusal = _denied(denial_of(plan, later(reply, now - since))[0], plan)
                plan.refused_until = now + _TOLD_FOR_S
            refused: Refusal = plan.refusal
            return refused
        plan.denial = None
    if gw.limiter.settlements.is_full:
        gw.limiter.refused_full += 1
        return Refusal(problems.BACKLOG_FULL, RETRY_SOON, Admission.UNAVAILABLE)
    if not gw.limiter.ask(ex, plan):
        return alone(gw, ex, plan)
    return None


def verdict(gw: Gateway, ex: Exchange, plan: Plan, reply: list[int] | None) -> bytes | Refusal:
    """The rate-limit header lines of an admitted request, or the refusal; `reply` None means that Redis gave none."""
    if reply is None:
        return alone(gw, ex, plan)
    if reply[0] == ADMITTED:
        gw.metrics.admissions[Admission.ADMITTED] += 1
        if plan.policy is StoreFailure.SHARE:
            plan.seen = reply
        if plan.is_shadow and (beyond := would_have_refused(plan, reply)) is not None:
            gw.metrics.counts["would_have_refused_total"] += 1
            return limit_headers(plan, reply) + b"X-Tollgate-Would-Refuse: %b\r\n" % beyond.encode()
        return limit_headers(plan, reply)
    if reply[0] == UNKNOWN:
        gw.limiter.knows_counters = False
        return alone(gw, ex, plan)
    if reply[0] == FULL:
        place = plan.places[reply[-1] - 1]
        scope = Scope.CUSTOMER if place.is_customers else Scope.ROUTE
        return too_many(place.limit, scope, limit_headers(plan, reply))
    denial, for_s = denial_of(plan, reply)
    now = time.monotonic()
    plan.denial, plan.denied_until, plan.refused_until = (reply, now), now + for_s, 0.0
    return _denied(denial, plan)


async def ask_again(gw: Gateway, ex: Exchange, plan: Plan) -> bytes | Refusal:
    """Ask once more, a moment after all places were taken.

    Whoever asks for one thing after the other may be quicker, through another gateway, than the settlement that leaves
    the place: it goes to Redis at the end of the loop's turn in which the answer went to the client.
    """
    await asyncio.sleep(_FREE_SOON_S)
    limits = ask(gw, ex, plan)
    return verdict(gw, ex, plan, await suspend()) if limits is None else limits


def alone(gw: Gateway, ex: Exchange, plan: Plan) -> bytes | Refusal:
    """Decide without Redis, by the route's policy. Who is admitted is written to the spool first, to be counted later."""
    limiter, policy = gw.limiter, plan.policy
    if policy is not StoreFailure.CLOSED:
        if policy is StoreFailure.SHARE and not limiter.take_share(ex, plan):
            detail = "Limits cannot be checked at the moment, and this gateway's share of them is used up."
            return Refusal(problems.LIMITS_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE, detail)
        if limiter.hold(ex, plan):
            gw.metrics.admissions[Admission.ADMITTED] += 1
            limiter.admitted_alone += 1
            return b""
    return Refusal(problems.LIMITS_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE)


def _denied(denial: Denial, plan: Plan) -> Refusal:
    by_rate = denial.problem is problems.RATE_LIMITED
    counted_as = Admission.RATE_LIMITED if by_rate else Admission.QUOTA_EXCEEDED
    headers = denial.headers + b"Retry-After: %d\r\n" % denial.wait_s
    length_s = 60 * BURST_MINUTES if str(denial.violated).endswith("-burst") else 60
    what = f"requests in {length_s} s" if by_rate else f"{denial.violated} in this period"
    upgrade_url = None if by_rate or plan.tier is None else plan.tier.upgrade_url
    more = "" if upgrade_url is None else f" {upgrade_at(upgrade_url)}"
    if denial.problem is problems.SPEND_CAP_REACHED:
        detail = f"{denial.problem.detail}{more}"
    else:
        detail = f"The limit of {denial.limit} {what} is reached. Try again in {denial.wait_s} s.{more}"
    return Refusal(denial.problem, headers, counted_as, detail, denial.violated, upgrade_url)


# -- forward it


def start_tunnel(ex: Exchange, route: Route, lead: bytes, extra: bytes) -> None:
    """The upstream agreed to a WebSocket: other deadlines hold from here on."""
    ex.read_timeout = route.spec.websocket_idle_ms / 1000
    ex.total_deadline = 0.0
    ex.client.start_tunnel(ex, lead, extra)


# -- what it cost, where that is known only now


def reader_of(metering: Metering, response: Response, before: Any) -> AnswerReader:
    """Who reads an answer while it passes; `before` is who did so far, for the cache."""
    has_body = response.framing not in (NONE, TUNNEL)
    reader = AnswerReader(metering.wanted, response.status, response.fields, has_body=has_body)
    if before is not None:
        reader.editor = before.editor
    return reader


async def ask_for_usage(ex: Exchange, caller: Caller) -> tuple[Caller, bool]:
    """Make a request for a stream of completions ask for its usage; and whether the client must not see that.

    Requests that are too large, or of another kind, go on as they are. May raise BodyTooLarge and UpstreamBroken.
    """
    if not await collect(ex, MAX_BODY):
        return caller, False
    body = with_usage(b"".join(ex.body_chunks))
    if body is None:
        return caller, False
    ex.body_chunks = [body]
    length = b"" if ex.fields.chunked else b"Content-Length: %d\r\n" % len(body)
    tail = b"%b%bAccept-Encoding: identity\r\n" % (without(caller.tail, REQUEST_FIELDS), length)
    return replace(caller, tail=tail, heads={}), True


def settle_measured(gw: Gateway, ex: Exchange, plan: Plan, outcome: Outcome, now_ns: int, *, was_sent: bool) -> None:
    """Settle a request whose meters are read from its answer: what was reserved becomes what it really cost."""
    metering: Metering = plan.metering
    reader: Any = ex.reader
    if not was_sent or (reader is None and outcome is Outcome.UPSTREAM_FAILED and metering.is_failure_free):
        event = event_of(ex, plan.identity, NOTHING, outcome, now_ns)
        return gw.limiter.settle(ex, event, is_charged=False)
    if ex.parts is not None and ex.parts.finish(outcome, now_ns):
        return None
    actual, estimated = measured(metering, flow_of(ex, now_ns), reader, is_whole=outcome is Outcome.COMPLETED)
    identity = plan.identity + FROM_CACHE if ex.is_kept else plan.identity
    if estimated:
        notes = {"estimated": estimated, "cache": "hit"} if ex.is_kept else {"estimated": estimated}
        identity = plan.identity + b',"notes":%b' % orjson.dumps(notes)
        gw.metrics.of_route(plan.route).estimated(estimated)
    fixed = b",".join(filter(None, (plan.meters_json, as_json(metering, actual))))
    event = event_of(ex, identity, quantities(fixed, ex), outcome, now_ns)
    gw.limiter.settle(ex, event, is_charged=True, actual=actual)
