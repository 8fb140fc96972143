"""Sending a request on: what it looks like to an origin, the connection it goes by, and trying again.

Failure: UpstreamBroken, which says how far it had come; ClientGone and BodyTooLarge pass through, and what was being
opened for the request then goes to the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.auth.extract import without_parameter
from gateway.exchange import BodyTooLarge, ClientGone, suspend
from gateway.proxy.budget import Budget
from gateway.proxy.paths import forwarded_path
from gateway.proxy.retry import may_retry
from gateway.proxy.upstream import UpstreamBroken
from ledger import problems

if TYPE_CHECKING:
    from gateway.context import Gateway
    from gateway.exchange import Exchange
    from gateway.memory import Caller
    from gateway.proxy.pool import Pool
    from gateway.proxy.upstream import Response, UpstreamConnection
    from gateway.store.nouns import Route


def prepare(gw: Gateway, ex: Exchange, route: Route) -> None:
    """Set what forwarding on this route needs: pools, deadlines, body limit. Raises BodyTooLarge."""
    spec = route.spec
    if route.pools is None:
        route.pools = gw.pools.of(route.upstream)
        if spec.cache is not None:
            route.cache = gw.caches.of(spec.cache)
    ex.read_timeout = route.read_timeout
    if spec.total_timeout_ms is not None:
        ex.total_deadline = gw.clock.now + spec.total_timeout_ms / 1000
    if ex.bytes_in or not ex.body_done:
        if spec.max_body_bytes is not None:
            ex.max_body = spec.max_body_bytes
            if ex.bytes_in > ex.max_body:
                raise BodyTooLarge
        if not ex.body_done and ex.line.minor and b"expect" in ex.fields.index:
            ex.client.send_continue()


def upstream_head(caller: Caller, pool: Pool, request_id: bytes) -> bytes:
    """The head to send to an origin."""
    head = caller.heads.get(pool)
    if head is None:
        line, route = caller.line, caller.route
        path, query = forwarded_path(route, line.path), line.query
        if route.key_query is not None and query:
            query = without_parameter(query, route.key_query)
        if route.injected is not None:
            query = route.injected.into(query)
        if query is not None:
            path = b"%b?%b" % (path, query)
        host = caller.fields.host if route.spec.preserve_host else None
        host_line = b"Host: %b\r\n" % host if host else pool.host_line
        head = b"%b %b%b HTTP/1.1\r\n%b%b" % (line.method, pool.base_path, path, host_line, caller.tail)
        caller.heads[pool] = head
    return b"%b%bX-Request-Id: %b\r\n\r\n" % (head, caller.user_line, request_id)


async def connect(ex: Exchange, pool: Pool) -> UpstreamConnection:
    """A connection of a pool that has no idle one."""
    opening = pool.open()
    try:
        connection = await opening
    except (ClientGone, BodyTooLarge):
        pool.abandon(opening)
        raise
    if not connection.is_usable():  # it was there, and is gone again
        raise UpstreamBroken(problems.UPSTREAM_FAILED, "connection closed before it was used", was_connected=False)
    return connection


async def try_again(gw: Gateway, ex: Exchange, caller: Caller, pool: Pool, broken: UpstreamBroken) -> Response:
    """Send a request once more, or several times, where no upstream can have acted on it; else raise `broken`."""
    route, counts = caller.route, gw.metrics.counts
    for _ in range(route.spec.retries):
        if not may_retry(
            was_connected=broken.was_connected,
            was_reused=broken.was_reused,
            method=caller.line.method,
            has_body=ex.bytes_in > 0 or not ex.body_done,
        ):
            break
        if route.budget is None:
            route.budget = Budget(route.spec.retry_budget)
        if not route.budget.take(sum(gw.metrics.of_route(route).classes), gw.clock.now):
            counts["retries_refused_total"] += 1
            break
        counts["retries_total"] += 1
        ex.upstream = None
        pool = route.pools.next(pool)
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
