"""Connections to one origin: the freshest first, never more than allowed, and no waiter forgotten."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.clock import Clock
from gateway.proxy.balance import Balancer
from gateway.proxy.pool import Pool, Pools
from gateway.proxy.upstream import UpstreamBroken, UpstreamConnection
from ledger import problems
from ledger.specs import UpstreamSpec
from tests.support.gateway import until
from tests.support.raw import Peer, Upstream


async def silent(peer: Peer) -> None:
    """An upstream that only listens."""
    while True:
        try:
            if not await peer.read_some():
                return
        except TimeoutError:
            pass


def spec(*urls: str, **different: Any) -> UpstreamSpec:
    return UpstreamSpec.model_validate({"name": "up", "targets": urls or ("http://127.0.0.1:1",), **different})


@asynccontextmanager
async def origin(**settings: Any) -> AsyncIterator[tuple[Pool, Upstream, Clock]]:
    """A pool before a silent upstream."""
    clock = Clock()
    async with Upstream(silent) as upstream:
        url = f"http://127.0.0.1:{upstream.port}"
        pool = Pool(url, spec(url, **settings), clock)
        try:
            yield pool, upstream, clock
        finally:
            pool.close()
            await until(lambda: not pool.open_connections)


async def failure(opening: asyncio.Future[UpstreamConnection]) -> UpstreamBroken:
    with pytest.raises(UpstreamBroken) as raised:
        await opening
    return raised.value


# -- idle connections


async def test_the_connection_used_last_is_used_next() -> None:
    async with origin() as (pool, upstream, _):
        assert pool.idle() is None
        first, second = await pool.open(), await pool.open()
        pool.release(first)
        pool.release(second)
        assert pool.idle() is second
        assert pool.idle() is first
        assert pool.idle() is None
        assert pool.open_connections == len(upstream.peers) == 2


async def test_a_connection_that_the_origin_closed_is_not_handed_out() -> None:
    async with origin() as (pool, upstream, _):
        first, second = await pool.open(), await pool.open()
        pool.release(first)
        pool.release(second)
        await upstream.peers[1].close()
        await until(lambda: pool.open_connections == 1)
        assert pool.idle() is first
        assert pool.idle() is None


async def test_what_is_idle_for_too_long_is_closed_oldest_first() -> None:
    async with origin(keepalive_ms=4_000) as (pool, _, clock):
        connections = [await pool.open() for _ in range(3)]
        for connection in connections:
            pool.release(connection)
            clock.now += 3
        pool.sweep()  # idle for 9, 6 and 3 s
        await until(lambda: pool.open_connections == 1)
        assert pool.idle() is connections[2]


# -- not too many


async def test_beyond_the_limit_requests_wait_in_order_for_the_next_that_is_free() -> None:
    async with origin(max_connections=2) as (pool, upstream, _):
        first, second = await pool.open(), await pool.open()
        waiting = [pool.open() for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(each.done() for each in waiting)
        pool.release(second)
        pool.release(first)
        assert [await waiting[0], await waiting[1]] == [second, first]
        assert not waiting[2].done()
        pool.release(second)
        assert await waiting[2] is second
        assert len(upstream.peers) == 2


async def test_connections_that_are_being_made_count_too() -> None:
    async with origin(max_connections=2) as (pool, upstream, _):
        opening = [pool.open() for _ in range(4)]
        made = [await opening[0], await opening[1]]
        for connection in made:
            pool.release(connection)
        assert {await opening[2], await opening[3]} == set(made)
        await until(lambda: len(upstream.peers) == 2)


async def test_who_waits_too_long_is_told_that_the_upstream_is_busy() -> None:
    async with origin(max_connections=1, connect_timeout_ms=50) as (pool, _, _):
        only = await pool.open()
        began = time.monotonic()
        broken = await failure(pool.open())
        assert (broken.problem, broken.was_connected) == (problems.UPSTREAM_BUSY, False)
        assert 0.04 < time.monotonic() - began < 1.0
        pool.release(only)
        assert pool.idle() is only


async def test_a_queue_that_is_full_turns_away_at_once_but_only_while_it_is_full() -> None:
    async with origin(max_connections=1, connect_timeout_ms=100) as (pool, _, _):
        await pool.open()
        waiting = [pool.open() for _ in range(10)]
        with pytest.raises(UpstreamBroken) as raised:
            pool.open()
        assert raised.value.problem is problems.UPSTREAM_BUSY
        for each in waiting:
            await failure(each)
        later = pool.open()  # those who gave up wait no longer
        assert not later.done()
        await failure(later)


async def test_one_who_gave_up_is_passed_over() -> None:
    async with origin(max_connections=1, connect_timeout_ms=50) as (pool, _, _):
        only = await pool.open()
        await failure(pool.open())
        patient = pool.open()
        pool.release(only)
        assert await patient is only


# -- nobody waits any more


async def test_an_abandoned_connection_becomes_an_idle_one() -> None:
    async with origin() as (pool, _, _):
        opening = pool.open()
        pool.abandon(opening)
        await until(lambda: opening.done())
        await asyncio.sleep(0)
        assert pool.idle() is opening.result()


async def test_an_abandoned_place_in_the_queue_passes_the_connection_on() -> None:
    async with origin(max_connections=1) as (pool, _, _):
        only = await pool.open()
        left, patient = pool.open(), pool.open()
        pool.abandon(left)
        pool.release(only)
        assert await patient is only


async def test_an_abandoned_failure_bothers_nobody() -> None:
    pool = Pool("http://127.0.0.1:1", spec(), Clock())
    pool.abandon(pool.open())
    await until(lambda: not pool.open_connections)
    await asyncio.sleep(0)
    gc.collect()  # "exception was never retrieved" would be raised here


# -- connections that break


async def test_a_connection_that_broke_makes_room_for_who_waits() -> None:
    async with origin(max_connections=1) as (pool, upstream, _):
        only = await pool.open()
        waiting = pool.open()
        await upstream.peers[0].close()
        fresh = await waiting
        assert fresh is not only
        assert fresh.is_usable()
        assert pool.open_connections == 1


async def test_when_no_connection_can_be_made_any_more_all_who_wait_learn_of_it() -> None:
    async with origin(max_connections=1, connect_timeout_ms=5_000) as (pool, upstream, _):
        await pool.open()
        waiting = [pool.open() for _ in range(3)]
        began = time.monotonic()
        upstream._server.close()  # nobody listens any more
        await upstream.peers[0].close()
        for each in waiting:
            assert (await failure(each)).problem is problems.UPSTREAM_UNREACHABLE
        assert time.monotonic() - began < 1.0
        assert pool.open_connections == 0


async def test_a_failed_attempt_makes_room_for_who_waits() -> None:
    """The one place was taken by an attempt that failed; who waited behind it gets an attempt of its own."""
    pool = Pool("http://127.0.0.1:1", spec(max_connections=1, connect_timeout_ms=5_000), Clock())
    began = time.monotonic()
    first, second = pool.open(), pool.open()
    assert (await failure(first)).problem is problems.UPSTREAM_UNREACHABLE
    assert (await failure(second)).problem is problems.UPSTREAM_UNREACHABLE
    assert time.monotonic() - began < 1.0


async def test_an_abandoned_connection_that_broke_meanwhile_is_not_kept() -> None:
    async with origin() as (pool, _, _):
        opening = pool.open()
        connection = await opening
        pool.abandon(opening)
        connection.abort()
        await until(lambda: not pool.open_connections)
        assert pool.idle() is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://127.0.0.1:1", problems.UPSTREAM_UNREACHABLE),
        ("http://nowhere.invalid", problems.UPSTREAM_UNREACHABLE),
        ("https://127.0.0.1:1", problems.UPSTREAM_UNREACHABLE),
    ],
)
async def test_an_origin_that_cannot_be_reached(url: str, problem: problems.Problem) -> None:
    pool = Pool(url, spec(url), Clock())
    broken = await failure(pool.open())
    assert (broken.problem, broken.was_connected) == (problem, False)


async def test_an_origin_that_speaks_no_tls_is_not_reached_in_plain() -> None:
    async with Upstream(silent) as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        pool = Pool(url, spec(url, connect_timeout_ms=200), Clock())
        broken = await failure(pool.open())
        assert broken.problem in (problems.UPSTREAM_TIMEOUT, problems.UPSTREAM_UNREACHABLE)
        assert not broken.was_connected


async def test_a_pool_that_is_closed_leaves_nothing_behind() -> None:
    async with Upstream(silent) as upstream:
        url = f"http://127.0.0.1:{upstream.port}"
        pool = Pool(url, spec(url), Clock())
        await pool.open()
        opening = pool.open()
        pool.close()
        await until(lambda: opening.done() and not pool.open_connections)


# -- addresses


@pytest.mark.parametrize(
    ("url", "host_line", "base_path"),
    [
        ("http://api.test", b"Host: api.test\r\n", b""),
        ("http://api.test:8080/base/v1", b"Host: api.test:8080\r\n", b"/base/v1"),
        ("https://[::1]:8443", b"Host: [::1]:8443\r\n", b""),
    ],
)
def test_an_origin_is_called_by_its_own_name(url: str, host_line: bytes, base_path: bytes) -> None:
    pool = Pool(url, spec(url), Clock())
    assert (pool.host_line, pool.base_path) == (host_line, base_path)


# -- several origins


def order_of(*weights: int) -> list[str]:
    targets = [{"url": f"http://{chr(97 + n)}.test", "weight": weight} for n, weight in enumerate(weights)]
    balancer = Pools(Clock()).of(UpstreamSpec.model_validate({"name": "up", "targets": targets}))
    total = sum(weights)
    return [balancer.next().url[7] for _ in range(2 * total)]


@pytest.mark.parametrize("weights", [(1,), (1, 1), (3, 1), (5, 1, 1), (2, 4, 6)])
def test_each_origin_has_its_turn_as_often_as_its_weight_says(weights: tuple[int, ...]) -> None:
    turns = order_of(*weights)
    assert Counter(turns) == {chr(97 + n): 2 * weight for n, weight in enumerate(weights)}
    assert turns[: sum(weights)] == turns[sum(weights) :]


def test_turns_are_spread_out_evenly() -> None:
    turns = "".join(order_of(5, 1, 1))
    assert "aaaa" not in turns  # not five times a, then b and c


def test_large_weights_do_not_hold_up_the_loop() -> None:
    targets = [{"url": f"http://t{n}.test", "weight": 1000} for n in range(64)]
    began = time.process_time()
    Pools(Clock()).of(UpstreamSpec.model_validate({"name": "up", "targets": targets}))
    assert time.process_time() - began < 0.2


def test_upstreams_that_are_the_same_share_their_pools_and_others_do_not() -> None:
    pools = Pools(Clock())
    a, b, c = spec("http://a.test"), spec("http://a.test"), spec("http://a.test", max_connections=3)
    assert pools.of(a).next() is pools.of(b).next()
    assert pools.of(a).next() is not pools.of(c).next()


async def test_a_pool_that_fell_empty_is_still_the_pool_of_its_routes() -> None:
    async with Upstream(silent) as upstream:
        clock = Clock()
        pools = Pools(clock)
        url = f"http://127.0.0.1:{upstream.port}"
        balancer: Balancer = pools.of(spec(url, keepalive_ms=1_000))
        pool = balancer.next()
        for _ in range(2):  # the second time around it has been empty once
            pool.release(await pool.open())
            clock.now += 2
            pools.sweep()
            await until(lambda: not pool.open_connections)
            pools.sweep()
        assert pools.of(spec(url, keepalive_ms=1_000)).next() is pool
        await pool.open()
        pools.close()
        await until(lambda: not pool.open_connections)


async def test_a_pool_that_no_route_uses_any_more_is_forgotten_once_it_is_empty() -> None:
    async with Upstream(silent) as upstream:
        clock = Clock()
        pools = Pools(clock)
        url = f"http://127.0.0.1:{upstream.port}"
        balancer = pools.of(spec(url, keepalive_ms=1_000))
        balancer.next().release(await balancer.next().open())
        pool = weakref.ref(balancer.next())
        del balancer  # the route was changed
        gc.collect()
        assert pool() is not None  # it is still to close its idle connection
        clock.now += 2
        pools.sweep()
        await until(lambda: gc.collect() >= 0 and pool() is None)
