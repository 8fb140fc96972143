"""Which target gets the next request, where some are not well or busier than others."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest

from gateway.clock import Clock
from gateway.proxy.balance import CarefulBalancer
from gateway.proxy.health import Health, Tally
from gateway.proxy.pool import Pool, Pools
from gateway.proxy.upstream import UpstreamBroken
from ledger import problems
from ledger.health import PassiveHealthSpec
from ledger.specs import UpstreamSpec
from tests.gateway.proxy.test_pool import silent
from tests.support.gateway import until
from tests.support.raw import Upstream

ABC = ("http://a", "http://b", "http://c")


class Stub:
    """A pool with so many requests under way."""

    def __init__(self, name: str, clock: Clock, outstanding: int = 0) -> None:
        self.name = name
        self.clock = clock
        self.outstanding = outstanding
        self.health = Health(name, PassiveHealthSpec(failures=1), None, Tally())

    def fail(self) -> None:
        self.health.failed(self.clock.now)


class Set:
    """Three targets and their balancer."""

    def __init__(self, weights: tuple[int, ...] = (1, 1, 1), load: tuple[int, ...] = (0, 0, 0), **kind: bool) -> None:
        self.clock, self.tally = Clock(), Tally()
        self.pools = [Stub(name, self.clock, busy) for name, busy in zip("abc", load, strict=True)]
        members = cast("list[tuple[Pool, int]]", list(zip(self.pools, weights, strict=True)))
        self.balancer = CarefulBalancer(members, self.clock, self.tally, **{"by_load": False, "refuses": True, **kind})

    def next(self, but: Stub | None = None) -> str:
        return str(cast(Any, self.balancer.next(cast(Any, but))).name)

    def counts(self, times: int) -> Counter[str]:
        return Counter(self.next() for _ in range(times))


def test_takes_turns_by_weight_while_all_are_well() -> None:
    assert Set(weights=(3, 2, 1)).counts(60) == {"a": 30, "b": 20, "c": 10}


def test_passes_over_who_is_not_well() -> None:
    targets = Set()
    targets.pools[0].fail()
    counts = targets.counts(30)
    assert (counts["a"], counts["b"] + counts["c"]) == (0, 30)
    assert min(counts["b"], counts["c"]) >= 10


def test_a_retry_goes_elsewhere_if_there_is_an_elsewhere() -> None:
    targets = Set()
    a, b, c = targets.pools
    assert all(targets.next(a) != "a" for _ in range(10))
    b.fail()
    c.fail()
    assert targets.next(a) == "a"


def test_where_none_is_left_it_says_when_to_come_again() -> None:
    targets = Set()
    for pool in targets.pools:
        pool.fail()
    with pytest.raises(UpstreamBroken) as refused:
        targets.next()
    assert (refused.value.problem, refused.value.retry_after_s) == (problems.CIRCUIT_OPEN, 10)
    assert not refused.value.was_connected
    assert targets.tally.refusals == 1
    targets.clock.now += 10
    assert sorted(targets.counts(3)) == ["a", "b", "c"]  # one trial each
    with pytest.raises(UpstreamBroken):
        targets.next()


def test_or_tries_all_where_that_is_declared() -> None:
    targets = Set(refuses=False)
    for pool in targets.pools:
        pool.fail()
    assert targets.counts(30) == {"a": 10, "b": 10, "c": 10}


@pytest.mark.parametrize(
    ("weights", "load", "chosen"),
    [((1, 1, 1), (5, 2, 9), "b"), ((1, 10, 1), (0, 8, 5), "b"), ((1, 1, 4), (1, 1, 3), "c")],
)
def test_the_least_busy_for_its_weight_is_next(weights: tuple[int, ...], load: tuple[int, ...], chosen: str) -> None:
    assert Set(weights, load, by_load=True).next() == chosen


def test_equally_busy_ones_take_turns() -> None:
    assert Set(by_load=True).counts(30) == {"a": 10, "b": 10, "c": 10}


def test_the_least_busy_may_be_the_broken_one() -> None:
    targets = Set(load=(0, 5, 9), by_load=True)
    assert targets.next(targets.pools[0]) == "b"
    targets.pools[0].fail()
    assert targets.next() == "b"


def spec(*urls: str, **different: Any) -> UpstreamSpec:
    return UpstreamSpec.model_validate({"name": "up", "targets": urls, **different})


@pytest.mark.parametrize(
    ("upstream", "is_watched"),
    [
        (spec("http://a"), False),
        (spec("http://a", passive_health={}), True),
        (spec("http://a", active_health={"path": "/"}), True),
        (spec(*ABC), True),
    ],
)
def test_who_is_watched(upstream: UpstreamSpec, is_watched: bool) -> None:
    pools = Pools(Clock())
    balancer = pools.of(upstream)
    assert isinstance(balancer, CarefulBalancer) is is_watched
    assert pools.states() == ({"up": [len(upstream.targets), 0, 0]} if is_watched else {})


def test_of_several_none_is_refused_unless_declared() -> None:
    pools = Pools(Clock())
    for upstream, refuses in ((spec(*ABC), False), (spec(*ABC, passive_health={}), True)):
        balancer = pools.of(upstream)
        pool = balancer.next()
        health = pool.health
        assert health is not None
        for each in {balancer.next() for _ in range(9)}:
            for _ in range(5):
                assert each.health is not None
                each.health.failed(each.clock.now)
        if refuses:
            with pytest.raises(UpstreamBroken):
                balancer.next()
        else:
            balancer.next()


async def test_so_many_checks_at_once_and_no_more() -> None:
    clock = Clock()
    pools = Pools(clock)
    async with Upstream(silent) as upstream:
        urls = [f"http://127.0.0.1:{upstream.port}/{n}" for n in range(64)]
        checks = {"path": "/", "timeout_ms": 60_000}
        balancers = [
            pools.of(UpstreamSpec.model_validate({"name": f"u{i}", "targets": urls, "active_health": checks}))
            for i in range(2)
        ]
        for _ in range(3):
            pools.check({})
        await until(lambda: len(upstream.peers) == 64)
        assert len(pools._checks._running) == 64
        pools.close()
        await until(lambda: not pools._checks._running)
    del balancers


@pytest.mark.parametrize("by_load", [False, True])
def test_who_was_ejected_is_tried_again_while_others_are_well(by_load: bool) -> None:
    targets = Set(by_load=by_load)
    targets.pools[0].fail()
    assert targets.counts(12)["a"] == 0
    targets.clock.now += 10
    assert targets.counts(12)["a"] == 1
    targets.pools[0].health.answered(200, targets.clock.now)
    assert targets.counts(12)["a"] == 4
