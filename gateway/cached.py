"""Answering from what is kept, or asking the upstream and keeping what it says: routes with `cache`.

`through_cache` stands where the pipeline would send a request on. What it returns is used like any upstream's answer: what
is kept is counted, measured and limited as if it had been fetched, and marked in the usage event.

Of many who miss the same at once, one asks (gateway.proxy.flights). A stale answer is told where the upstream allows that
(RFC 5861): while it is being renewed, by an exchange of its own that nobody waits for and nobody pays, or because the
upstream fails.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.auth.extract import without_parameter
from gateway.exchange import BodyTooLarge, ClientGone, Exchange, suspend
from gateway.forward import connect, drop_upstream, try_again, upstream_head
from gateway.http1.response import NONE
from gateway.metering.reader import AnswerReader
from gateway.proxy.cache import Entry, RouteCache, answer_of, forwarded, is_fresh, recording_of, refreshed
from gateway.proxy.freshness import CONDITIONS, Directives, directives, may_be_told_stale
from gateway.proxy.kept import KeptBody
from gateway.proxy.nobody import Nobody
from gateway.proxy.upstream import UpstreamBroken
from ledger import problems
from ledger.ids import uuid7_digits
from ledger.specs import AuthMode

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.memory import Caller
    from gateway.proxy.cache import Key
    from gateway.proxy.flights import Flight
    from gateway.proxy.upstream import Response
    from gateway.store.nouns import Route

_IDENTIFYING: Final = frozenset((b"authorization", b"cookie"))
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_FOR_ITSELF: Final = frozenset((b"no-cache", b"no-store", b"max-age", b"min-fresh"))
"""Who says one of these wants an answer of its own."""
_FAILURES: Final = frozenset((500, 502, 503, 504))
_UNATTENDED_S: Final = 60.0


@dataclass(slots=True, eq=False)
class _Miss:
    """What is asked of an upstream for a cache: what is kept of it now, and who waits for it."""

    cache: RouteCache
    key: Key
    entry: Entry | None
    is_identified: bool
    flight: Flight | None = None


async def through_cache(gw: Gateway, ex: Exchange, caller: Caller) -> Response:
    """The answer to a request; one that may be kept is copied as it passes. Raises as `gateway.forward` does."""
    cache: RouteCache = caller.route.cache
    method, fields, counts = ex.line.method, ex.fields, gw.metrics.counts
    is_read = method in (b"GET", b"HEAD") and not ex.bytes_in and ex.body_done
    if not is_read or caller.is_websocket or b"range" in fields.index:
        response = await _fetch(gw, ex, caller)
        if method not in _SAFE and response.status < 400:
            cache.invalidate(key_of(ex, caller.route))  # what was kept is no longer so
        return forwarded(response, b"fwd=bypass" if is_read else b"fwd=method")
    key, wanted = key_of(ex, caller.route), directives(fields)
    is_identified = caller.route.spec.auth is not AuthMode.NONE or not _IDENTIFYING.isdisjoint(fields.index)
    miss = _Miss(cache, key, cache.find(key, fields), is_identified)
    until, has_waited = 0.0, False
    while True:
        entry = miss.entry
        if entry is not None and is_fresh(entry, wanted, time.time()):
            counts["cache_collapsed_total" if has_waited else "cache_hits_total"] += 1
            return _kept(ex, entry, b"fwd=miss; collapsed" if has_waited else b"hit")
        if b"only-if-cached" in wanted:
            raise UpstreamBroken(problems.NOT_KEPT, "only-if-cached", was_connected=False)
        if entry is not None and _may_be_told_stale(entry, wanted, entry.lifetime.while_s):
            counts["cache_stale_total"] += 1
            _renew_unattended(gw, ex, caller, miss)
            return _kept(ex, entry, b"hit")
        if not cache.wait_s or not _FOR_ITSELF.isdisjoint(wanted):
            break
        variant = cache.variant(key, fields)
        flight = cache.flights.find(key, variant)
        now = gw.clock.now
        if flight is None:
            if method == b"GET" and CONDITIONS.isdisjoint(fields.index) and cache.flights.is_shared(key, variant, now):
                miss.flight = cache.flights.begin(key, variant)
            break
        until = until or now + cache.wait_s
        if now >= until or not await flight.landed(until - now):
            break
        has_waited = True
        miss.entry = cache.find(key, fields)
    try:
        found = await _ask(gw, ex, caller, miss)
    except UpstreamBroken:
        if entry is None or not _may_be_told_stale(entry, wanted, entry.lifetime.if_error_s):
            raise
        counts["cache_stale_total"] += 1
        return _kept(ex, entry, b"hit; detail=stale-if-error")
    if isinstance(found, Entry):
        return _kept(ex, found, b"fwd=stale; fwd-status=304")
    response = found
    if (
        response.status in _FAILURES
        and entry is not None
        and _may_be_told_stale(entry, wanted, entry.lifetime.if_error_s)
    ):
        drop_upstream(ex)
        counts["cache_stale_total"] += 1
        return _kept(ex, entry, b"hit; detail=stale-if-error")
    counts["cache_misses_total"] += 1
    why = b"fwd=request" if not _FOR_ITSELF.isdisjoint(wanted) else b"fwd=stale" if entry is not None else b"fwd=miss"
    return forwarded(response, why + b"; stored" if ex.reader is not None else why)


def key_of(ex: Exchange, route: Route) -> Key:
    """What a request asks for."""
    sender = ex.client.sender(ex.fields)
    query = ex.line.query
    if query is not None and route.key_query is not None:
        query = without_parameter(query, route.key_query)
    return sender.scheme, sender.host, ex.line.path, query


def _may_be_told_stale(entry: Entry, wanted: Directives, for_s: int) -> bool:
    return may_be_told_stale(wanted, entry.lifetime, entry.age_s(time.time()), for_s)


def _kept(ex: Exchange, entry: Entry, how: bytes) -> Response:
    """Answer with what is kept: its head now, its body from the loop's next turn on."""
    response, body = answer_of(entry, ex.fields, time.time(), how)
    ex.is_kept = True
    ex.sent_ns = ex.sent_ns or time.monotonic_ns()  # it is served, and costs what it costs
    if ex.line.method == b"HEAD":
        body, response.framing = b"", NONE
    KeptBody(ex, body)
    return response


async def _ask(gw: Gateway, ex: Exchange, caller: Caller, miss: _Miss) -> Response | Entry:
    """Ask the upstream, and keep what may be kept: the answer, or the entry that it says is still so."""
    entry, flight = miss.entry, miss.flight
    conditions = entry.conditions if entry is not None and CONDITIONS.isdisjoint(ex.fields.index) else b""
    cache, key, asked_at = miss.cache, miss.key, miss.cache.changes
    is_over = True
    try:
        response = await _fetch(gw, ex, caller, conditions)
        if entry is not None and conditions and response.status == 304:
            await suspend()  # it has no body; the connection is done with
            delay_s = (time.monotonic_ns() - ex.sent_ns) / 1e9
            renewed = refreshed(entry, response, time.time(), delay_s, is_identified=miss.is_identified)
            if renewed is None:
                cache.forget(key)
            elif cache.is_as_asked(key, asked_at):
                cache.keep(key, renewed)
            gw.metrics.counts["cache_revalidations_total"] += 1
            return renewed or entry
        if ex.line.method == b"GET":
            recording = recording_of(cache, key, ex, response, asked_at, flight, is_identified=miss.is_identified)
            if recording is not None:
                is_over = False
                ex.reader = reader = AnswerReader(None, response.status, response.fields, has_body=True)
                reader.editor = recording
            elif flight is not None and response.status not in _FAILURES:
                flight.not_shared()
        return response
    finally:
        if flight is not None and is_over:
            flight.over()


async def _fetch(gw: Gateway, ex: Exchange, caller: Caller, further: bytes = b"") -> Response:
    """Ask the upstream, as the pipeline does, with further lines in the head."""
    pool = caller.route.pools.next()
    try:
        connection = pool.idle() or await connect(ex, pool)
        head = upstream_head(caller, pool, ex.id)
        connection.send(ex, b"%b%b\r\n" % (head[:-2], further) if further else head)
        response: Response = await suspend()
        return response
    except UpstreamBroken as broken:
        return await try_again(gw, ex, caller, pool, broken)


# -- renewing what is told meanwhile


def _renew_unattended(gw: Gateway, ex: Exchange, caller: Caller, miss: _Miss) -> None:
    """Ask for a stale answer anew, unless somebody does; who is told the stale one does not wait for it."""
    cache, fields = miss.cache, ex.fields
    variant = cache.variant(miss.key, fields)
    if ex.line.method != b"GET" or not CONDITIONS.isdisjoint(fields.index) or cache.flights.find(miss.key, variant):
        return
    nobody = Nobody(ex.client.sender(fields))
    now_ms = time.time_ns() // 1_000_000
    unattended = Exchange(nobody, ex.line, fields, uuid7_digits(now_ms), now_ms, time.monotonic_ns())
    unattended.read_timeout = caller.route.read_timeout
    flight = cache.flights.begin(miss.key, variant)
    nobody.waits(unattended, min(_UNATTENDED_S, caller.route.read_timeout))
    unattended.run(_renew(gw, unattended, caller, _Miss(cache, miss.key, miss.entry, miss.is_identified, flight)))


async def _renew(gw: Gateway, ex: Exchange, caller: Caller, miss: _Miss) -> None:
    """The life of an exchange that nobody waits for."""
    try:
        response = await _ask(gw, ex, caller, miss)
        if isinstance(response, Entry):
            return
        if ex.reader is None:  # it is not to be kept
            drop_upstream(ex)
            if response.status not in _FAILURES:
                miss.cache.forget(miss.key)
            return
        await suspend()
        ex.reader.pass_rest(ex)
    except UpstreamBroken as broken:
        gw.incidents.note(broken.problem.code, str(broken), caller.route.name, ex.id)
    except (ClientGone, BodyTooLarge):  # it took too long
        drop_upstream(ex)
