"""The gateway's own endpoints, beside the routes it proxies.

    GET  /health     alive: 200 as long as the process serves
    GET  /ready      200 when requests can be served: the snapshot is loaded, and Redis is there or a route does without;
                     else 503; names each dependency either way
    POST /api/data   count without proxying: {meter?: "requests", quantity?: 1, idempotencyKey?}
    GET  /api/usage  what the caller has used and may use in this period, counting nothing

The last two speak for the caller's customer: a customer key's own, the one a secret key names in X-User-Id, or the
one a token (JWT) is about, if its issuer belongs to exactly one project.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.auth.extract import Absent, extract, query_values
from gateway.bearers import bearer_of, is_token
from gateway.context import RETRY_SOON, Gateway, Refusal
from gateway.exchange import BodyTooLarge, suspend
from gateway.limits.decide import ADMITTED, COUNTED_BEFORE, UNKNOWN, denial_of, limit_headers, upgrade_at
from gateway.limits.plan import Plan, make_plan
from gateway.metering.event import event_of
from gateway.metrics import Admission
from gateway.pipeline import answer, refuse, serve
from gateway.principals import authenticate, customer_of, refusal_of
from gateway.proxy.collector import collect
from gateway.relay import belongs_to_admin, relay
from gateway.store.redis import encode
from ledger import names, problems
from ledger.events import MAX_QUANTITY, Outcome
from ledger.keys import KeyKind
from ledger.meters import IN_EVERY_EVENT
from ledger.specs import StoreFailure, is_meter_name

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.store.nouns import Customer, Principal

_JSON: Final = b"Content-Type: application/json\r\n"
_MAX_BODY: Final = 65_536

Life = Coroutine[Any, Any, None]
Endpoint = Callable[[Gateway, "Exchange"], Life]


def life_of(gw: Gateway, ex: Exchange) -> Life:
    """The life of a request: one of the endpoints here, or that of a proxied request."""
    caller = ex.client.caller
    if caller is not None and caller.line is ex.line:
        return serve(gw, ex)  # the same request line as before
    path = ex.line.path
    endpoints = _ENDPOINTS.get(path)
    if endpoints is None:
        if (
            gw.admin is not None
            and belongs_to_admin(path)
            and gw.snapshot.table.match(ex.fields.host, path, ex.line.method) is None
        ):
            ex.client.read_fully(ex)
            return relay(gw, ex, gw.admin)
        return serve(gw, ex)
    ex.client.read_fully(ex)
    if gw.admin is not None and endpoints is _USAGE and ex.line.query and query_values(ex.line.query, b"period"):
        return relay(gw, ex, gw.admin)  # the figures of a month are admin's; those of the customer who asks are ours
    endpoint = endpoints.get(ex.line.method)
    if endpoint is None:
        return _wrong_method(gw, ex, b", ".join(endpoints))
    return endpoint(gw, ex)


async def _wrong_method(gw: Gateway, ex: Exchange, allowed: bytes) -> None:
    refuse(gw, ex, Refusal(problems.METHOD_NOT_ALLOWED, b"Allow: %b\r\n" % allowed, Admission.NO_ROUTE))


async def _health(gw: Gateway, ex: Exchange) -> None:
    ex.client.respond(ex, 200, _JSON, b'{"status":"ok"}')


async def _ready(gw: Gateway, ex: Exchange) -> None:
    snapshot, redis = gw.snapshot, gw.limiter.redis
    checks = {
        "routes": "ok" if snapshot.is_loaded else "not loaded yet",
        "postgres": "ok" if snapshot.is_connected else "unavailable",
        "redis": "ok" if redis.available else "unavailable",
        "counters": "ok" if gw.limiter.knows_counters else "unknown",
        "backlog": "full" if gw.limiter.settlements.is_full else "ok",
        "spool": _spool_state(gw),
        "draining": "yes" if gw.is_draining else "no",
    }
    # Without Postgres, known keys go on being served; without Redis, the routes whose policy says so.
    can_admit = (redis.available and gw.limiter.knows_counters) or any(
        r.spec.on_store_failure is not StoreFailure.CLOSED for r in snapshot.table.by_id.values()
    )
    is_ready = snapshot.is_loaded and can_admit and not gw.limiter.settlements.is_full
    is_ready = is_ready and (gw.is_followed or not gw.is_draining)
    body = orjson.dumps({"status": "ready" if is_ready else "not ready", "checks": checks})
    ex.client.respond(ex, 200 if is_ready else 503, _JSON, body)


def _spool_state(gw: Gateway) -> str:
    spool = gw.limiter.settlements.spool
    if spool is None:
        return "off"
    if spool.is_full:
        return f"full, {spool.bytes} bytes"
    return "empty" if spool.is_empty else f"{spool.entries} records to replay, {spool.bytes} bytes"


async def _data(gw: Gateway, ex: Exchange) -> None:
    """Count a quantity of a meter for the caller's customer, if its quota allows."""
    raw = await _body(ex)
    if raw is None:
        return answer(ex, problems.BODY_TOO_LARGE)
    asked = _asked(raw)
    if isinstance(asked, str):
        return answer(ex, problems.INVALID, detail=asked)
    meter, quantity, idem = asked
    plan = await _plan_of(gw, ex, {meter: quantity}, idem)
    if isinstance(plan, Refusal):
        return refuse(gw, ex, plan)
    if idem is not None:
        ex.status = 200
        plan.late_event = _event(ex, plan, idem)
    if gw.limiter.settlements.is_full or not gw.limiter.ask(ex, plan):
        return refuse(gw, ex, Refusal(problems.LIMITS_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE))
    reply = await suspend()
    if reply is None or reply[0] == UNKNOWN:
        return refuse(gw, ex, Refusal(problems.LIMITS_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE))
    headers = limit_headers(plan, reply)
    used = reply[2 + 2 * len(plan.windows)] if plan.quotas else 0
    if reply[0] == COUNTED_BEFORE:
        return ex.client.respond(ex, 200, _JSON + headers, _counted(plan, meter, used))
    if reply[0] != ADMITTED:
        return _not_counted(gw, ex, plan, meter, reply)
    ex.status = 200
    gw.limiter.settle(ex, _event(ex, plan, idem), is_charged=True)
    gw.metrics.admissions[Admission.ADMITTED] += 1
    ex.client.respond(ex, 200, _JSON + headers, _counted(plan, meter, used))


def _event(ex: Exchange, plan: Plan, idem: str | None) -> bytes:
    identity = plan.identity + (b',"idem":%b' % orjson.dumps(idem) if idem else b"")
    return event_of(ex, identity, b"{%b}" % plan.meters_json, Outcome.COUNTED, time.monotonic_ns())


def _not_counted(gw: Gateway, ex: Exchange, plan: Plan, meter: str, reply: list[int]) -> None:
    denial, _ = denial_of(plan, reply)
    headers = denial.headers + b"Retry-After: %d\r\n" % denial.wait_s
    if denial.problem is problems.RATE_LIMITED:
        return refuse(gw, ex, Refusal(denial.problem, headers, Admission.RATE_LIMITED, None, denial.violated))
    if denial.problem is problems.SPEND_CAP_REACHED:
        return refuse(gw, ex, Refusal(denial.problem, headers, Admission.QUOTA_EXCEEDED, None, denial.violated))
    gw.metrics.admissions[Admission.QUOTA_EXCEEDED] += 1
    plan_name = plan.tier.name if plan.tier else None
    more = upgrade_at(plan.tier.upgrade_url if plan.tier else None)
    body = orjson.dumps(
        {
            "error": "Tier limit reached",
            "count": denial.used,
            "limit": denial.limit,
            "plan": plan_name,
            "message": f"The plan {plan_name} includes {denial.limit} {meter} in this period. {more}",
        }
    )
    ex.client.respond(ex, 403, _JSON + headers, body)


async def _usage(gw: Gateway, ex: Exchange) -> None:
    """What the caller's customer has used of a meter (`?meter=`, default requests)."""
    meter = "requests"
    for part in (ex.line.query or b"").split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"meter":
            meter = value.decode("latin-1")
    if not is_meter_name(meter):
        return answer(ex, problems.INVALID, detail="meter: expected a meter's name")
    plan = await _plan_of(gw, ex, {meter: 1}, None)
    if isinstance(plan, Refusal):
        return refuse(gw, ex, plan)
    if meter in IN_EVERY_EVENT and (plan.tier is None or meter not in plan.tier.quotas):
        return answer(ex, problems.INVALID, detail=f"meter: {meter} is counted live where the customer's tier names it")
    redis = gw.limiter.redis
    if not redis.available:
        return refuse(gw, ex, Refusal(problems.LIMITS_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE))
    ex.admitting = True
    redis.send(encode(("MGET", names.epoch_beside(plan.reservations), plan.quotas[0].key)), _Once(ex))
    reply = await suspend()
    if not isinstance(reply, list) or reply[0] is None:  # late, lost or an error; or the counters are being rebuilt
        return refuse(gw, ex, Refusal(problems.LIMITS_UNAVAILABLE, RETRY_SOON, Admission.UNAVAILABLE))
    ex.client.respond(ex, 200, _JSON, orjson.dumps(_figures(plan, meter, int(reply[1] or 0))))


LATE: Final = object()


class _Once:
    """Resumes an exchange with one reply, or with LATE."""

    __slots__ = ("_ex",)

    def __init__(self, ex: Exchange) -> None:
        self._ex = ex

    def on_reply(self, reply: Any) -> None:
        if self._ex.admitting:
            self._ex.admitting = False
            self._ex.resume(reply)

    def on_timeout(self) -> None:
        self.on_reply(LATE)


async def _body(ex: Exchange) -> bytes | None:
    """The whole request body; None if it is larger than these endpoints take."""
    ex.max_body = _MAX_BODY
    if (ex.fields.content_length or 0) > _MAX_BODY or ex.bytes_in > _MAX_BODY:
        return None
    if not ex.body_done:
        if ex.line.minor and b"expect" in ex.fields.index:
            ex.client.send_continue()
        try:
            await collect(ex, _MAX_BODY)
        except BodyTooLarge:
            return None
    return b"".join(ex.body_chunks)


def _asked(raw: bytes) -> tuple[str, int, str | None] | str:
    """The meter, quantity and idempotency key of POST /api/data; or what is wrong with it."""
    try:
        data = orjson.loads(raw) if raw.strip() else {}
    except orjson.JSONDecodeError:
        return "The body is not JSON."
    if not isinstance(data, dict):
        return "The body is not a JSON object."
    unknown = sorted(set(data) - {"meter", "quantity", "idempotencyKey"})
    if unknown:
        return f"{unknown[0][:64]}: unknown field; known are meter, quantity, idempotencyKey"
    meter, quantity, idem = data.get("meter", "requests"), data.get("quantity", 1), data.get("idempotencyKey")
    if not isinstance(meter, str) or not is_meter_name(meter):
        return "meter: expected a meter's name of lower-case letters, digits, '.', '_' or '-'"
    if type(quantity) is not int or not 1 <= quantity <= MAX_QUANTITY:
        return f"quantity: expected an integer from 1 to {MAX_QUANTITY}"
    if idem is not None and (not isinstance(idem, str) or not 1 <= len(idem) <= 255 or "\0" in idem):
        return "idempotencyKey: expected 1 to 255 characters"
    return meter, quantity, idem


async def _plan_of(gw: Gateway, ex: Exchange, meters: dict[str, int], idem: str | None) -> Plan | Refusal:
    """The caller's plan for counting these meters outside any route."""
    credential = extract(ex.fields, ex.line.query)
    if isinstance(credential, Absent):
        return refusal_of(credential)
    principal: Principal | None = None
    customer: Customer | None
    if is_token(credential.text):
        bearer = await bearer_of(gw, ex, credential.text, None)
        if isinstance(bearer, Refusal):
            return bearer
        project_id, mode, customer, tier, _ = bearer
    else:
        checked = await authenticate(gw, ex, credential, None)
        if isinstance(checked, Refusal):
            return checked
        if checked.kind == KeyKind.PUBLISHABLE:
            return Refusal(problems.FORBIDDEN, b"", Admission.FORBIDDEN)
        who = await customer_of(gw, ex, checked)
        if isinstance(who, Refusal):
            return who
        principal, project_id, mode = checked, checked.project_id, checked.mode
        customer, tier = who
    digest = None
    if idem is not None:
        owner = customer.id if customer else project_id
        digest = sha256(f"{project_id}\0{mode}\0{owner}\0{idem}".encode()).hexdigest()
    return make_plan(
        generation=gw.snapshot.generation,
        project_id=project_id,
        mode=mode,
        principal=principal,
        customer=customer,
        tier=tier,
        route=None,
        meters=meters,
        now=ex.at_ms / 1000,
        shards=gw.shards,
        gateway=gw.name,
        idempotency=digest,
    )


def _counted(plan: Plan, meter: str, used: int) -> bytes:
    return orjson.dumps({"success": True, "allowed": True, **_figures(plan, meter, used)})


def _figures(plan: Plan, meter: str, used: int) -> dict[str, Any]:
    limit = plan.quotas[0].limit if plan.quotas else None
    customer = plan.customer
    return {
        "userId": (customer.external_id or customer.id) if customer else None,
        "usage": {
            "meter": meter,
            "count": used,
            "limit": limit,
            "plan": plan.tier.name if plan.tier else None,
            "periodStart": _iso(plan.period_start),
            "periodEnd": _iso(plan.period_end),
            "remaining": None if limit is None else max(0, limit - used),
        },
    }


def _iso(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_USAGE: Final[dict[bytes, Endpoint]] = {b"GET": _usage, b"HEAD": _usage}
_ENDPOINTS: Final[dict[bytes, dict[bytes, Endpoint]]] = {
    b"/health": {b"GET": _health, b"HEAD": _health},
    b"/ready": {b"GET": _ready, b"HEAD": _ready},
    b"/api/data": {b"POST": _data},
    b"/api/usage": _USAGE,
}
