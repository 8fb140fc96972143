"""Answering from what is kept, or asking the upstream and keeping what it says: routes with `cache`.

`through_cache` stands where the pipeline would send a request on. What it returns is used like any upstream's answer: what
is kept is counted, measured and limited as if it had been fetched, and marked in the usage event.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from gateway.auth.extract import without_parameter
from gateway.exchange import suspend
from gateway.forward import connect, try_again, upstream_head
from gateway.http1.response import NONE
from gateway.metering.reader import AnswerReader
from gateway.proxy.cache import RouteCache, answer_of, is_fresh, recording_of, refreshed
from gateway.proxy.freshness import CONDITIONS
from gateway.proxy.kept import KeptBody
from gateway.proxy.upstream import UpstreamBroken
from ledger.specs import AuthMode

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.exchange import Exchange
    from gateway.memory import Caller
    from gateway.proxy.cache import Entry, Key
    from gateway.proxy.upstream import Response
    from gateway.store.nouns import Route

_IDENTIFYING: Final = frozenset((b"authorization", b"cookie"))
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


async def through_cache(gw: Gateway, ex: Exchange, caller: Caller) -> Response:
    """The answer to a request; one that may be kept is copied as it passes. Raises as `gateway.forward` does."""
    cache: RouteCache = caller.route.cache
    method, fields, counts = ex.line.method, ex.fields, gw.metrics.counts
    is_read = method in (b"GET", b"HEAD") and not ex.bytes_in and ex.body_done
    if not is_read or caller.is_websocket or b"range" in fields.index:
        response = await _fetch(gw, ex, caller)
        if method not in _SAFE and response.status < 400:
            cache.forget(key_of(ex, caller.route))  # what was kept is no longer so
        return response
    key = key_of(ex, caller.route)
    is_identified = caller.route.spec.auth is not AuthMode.NONE or not _IDENTIFYING.isdisjoint(fields.index)
    entry = cache.find(key, fields)
    if entry is not None and is_fresh(entry, fields, time.time()):
        counts["cache_hits_total"] += 1
        return _kept(ex, entry)
    conditions = b""
    if entry is not None and CONDITIONS.isdisjoint(fields.index):
        conditions = entry.conditions
    response = await _fetch(gw, ex, caller, conditions)
    if entry is not None and conditions and response.status == 304:
        await suspend()  # it has no body; the connection is done with
        delay_s = (time.monotonic_ns() - ex.sent_ns) / 1e9
        renewed = refreshed(entry, response, time.time(), delay_s, is_identified=is_identified)
        cache.forget(key) if renewed is None else cache.keep(key, renewed)
        counts["cache_revalidations_total"] += 1
        return _kept(ex, renewed or entry)
    counts["cache_misses_total"] += 1
    if method == b"GET":
        recording = recording_of(cache, key, ex, response, is_identified=is_identified)
        if recording is not None:
            ex.reader = reader = AnswerReader(None, response.status, response.fields, has_body=True)
            reader.editor = recording
    return response


def key_of(ex: Exchange, route: Route) -> Key:
    """What a request asks for."""
    sender = ex.client.sender(ex.fields)
    query = ex.line.query
    if query is not None and route.key_query is not None:
        query = without_parameter(query, route.key_query)
    return sender.scheme, sender.host, ex.line.path, query


def _kept(ex: Exchange, entry: Entry) -> Response:
    """Answer with what is kept: its head now, its body from the loop's next turn on."""
    response, body = answer_of(entry, ex.fields, time.time())
    ex.is_kept = True
    ex.sent_ns = ex.sent_ns or time.monotonic_ns()  # it is served, and costs what it costs
    if ex.line.method == b"HEAD":
        body, response.framing = b"", NONE
    KeptBody(ex, body)
    return response


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
