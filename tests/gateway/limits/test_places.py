"""Places for what is under way at once: taken with all other limits or not at all, and left with the reservation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import hiredis
import orjson
import pytest
import redis

from gateway.limits.decide import FULL, UNKNOWN
from gateway.limits.limiter import SCRIPTS
from gateway.limits.plan import Plan
from gateway.limits.renewal import Part, renew_command
from gateway.limits.settlements import corrected, settle_command
from ledger import names
from ledger.sweep import LEAVE, Policy, orphan_of
from tests.gateway.nouns import plan, route, tier
from tests.support.servers import trust

NOW = datetime.now(UTC)


class Places:
    """Admits and settles by the commands that a gateway sends."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        for script in SCRIPTS:
            self.redis.script_load(script)
        trust(self.redis)

    def call(self, command: bytes) -> Any:
        reader = hiredis.Reader()
        reader.feed(command)
        return self.redis.execute_command(*reader.gets())

    def admit(self, of: Plan, number: int) -> list[int]:
        reply: list[int] = self.call(of.admit_command(b"%032x" % number, 1))
        return reply

    def settle(self, of: Plan, number: int) -> None:
        self.call(settle_command([corrected(of, b"%032x" % number, b'{"an":"event"}', [], of.place_keys)]))

    def taken(self, of: Plan) -> list[int]:
        return [self.redis.scard(key) for key in of.place_keys]


@pytest.fixture
def places(redis_url: str) -> Iterator[Places]:
    it = Places(redis_url)
    yield it
    it.redis.close()


def limited(at_once: int | None = 2, of_route: int | None = None, **of_tier: Any) -> Plan:
    quotas = of_tier.pop("quotas", {"requests": 100})
    its_tier = tier(**quotas)
    its_tier.concurrent_requests = at_once
    for name, value in of_tier.items():
        setattr(its_tier, name, value)
    return plan(its_tier, on=route(concurrent_requests=of_route), now=NOW)


def test_so_many_are_admitted_and_no_more(places: Places) -> None:
    p = limited(requests_per_minute=10)
    assert [places.admit(p, n)[0] for n in (1, 2)] == [0, 0]
    verdict, _, in_minute, _, used, which = places.admit(p, 3)
    assert (verdict, in_minute, used, which) == (FULL, 2, 2, 1)  # neither the minute nor the quota was touched
    assert places.redis.hlen(p.reservations) == 2
    places.settle(p, 1)
    places.settle(p, 1)  # asked twice, left once
    assert places.taken(p) == [1]
    assert [places.admit(p, n)[0] for n in (4, 5)] == [0, FULL]


def test_who_is_refused_by_another_limit_takes_no_place(places: Places) -> None:
    p = limited(quotas={"requests": 1})
    assert [places.admit(p, n)[0] for n in (1, 2)] == [0, 1]
    assert places.taken(p) == [1]


def test_a_route_counts_over_all_its_customers(places: Places) -> None:
    p = limited(5, of_route=2)
    assert [place.is_customers for place in p.places] == [True, False]
    assert [places.admit(p, n)[0] for n in (1, 2)] == [0, 0]
    reply = places.admit(p, 3)
    assert (reply[0], reply[-1]) == (FULL, 2)
    assert places.taken(p) == [2, 2]


def test_nobody_leaves_a_set_behind(places: Places) -> None:
    p = limited()
    places.admit(p, 1)
    places.settle(p, 1)
    assert places.redis.keys("*:places:*") == []


def test_an_empty_set_may_be_a_lost_one(places: Places) -> None:
    p = limited()
    assert places.admit(p, 1)[0] == 0
    places.redis.flushall()
    assert places.admit(p, 2)[0] == UNKNOWN
    assert places.redis.keys() == []


def test_in_shadow_mode_it_is_only_said(places: Places) -> None:
    p = limited(1, is_shadow=True)
    assert places.admit(p, 1)[-1] == 0
    reply = places.admit(p, 2)
    assert (reply[0], reply[-1]) == (0, FULL)
    assert places.taken(p) == [2]


@pytest.mark.parametrize("policy", ["charge_estimate", "release"])
def test_the_sweeper_leaves_the_places_of_the_dead(places: Places, policy: Policy) -> None:
    p = limited(5, of_route=5)
    places.admit(p, 1)
    raw = places.redis.hget(p.reservations, f"{1:032x}")
    assert isinstance(raw, bytes)
    _, corrections = orphan_of(raw, policy)
    assert [key for key, delta in corrections if delta == LEAVE] == list(p.place_keys)
    sweep = resources.files("ledger").joinpath("sweep.lua").read_text(encoding="utf-8")
    script = places.redis.register_script(sweep)
    keys = [p.reservations, p.stream, *(key for key, _ in corrections)]
    assert script(keys=keys, args=[f"{1:032x}", "{}", *(delta for _, delta in corrections)]) == 1
    assert places.taken(p) == [0, 0]


def test_a_long_request_keeps_its_place_from_part_to_part(places: Places) -> None:
    p, later_tier = limited(), limited(None)
    places.admit(p, 1)
    first = Part(p, b"%032x" % 1, 1, p.place_keys)
    second = Part(later_tier, b"%032x" % 2, 2, first.places)  # under a tier that has no such limit by now
    for _ in range(2):  # asked again, nothing changes
        assert places.call(renew_command(first, b"{}", [], second, [])) == [0]
        assert places.redis.smembers(p.place_keys[0]) == {second.id}
    held = orjson.loads(places.redis.hget(p.reservations, second.id) or b"")
    assert held["places"] == list(p.place_keys)
    places.call(settle_command([corrected(later_tier, second.id, b"{}", [], second.places)]))
    assert places.taken(p) == [0]


def test_without_such_a_limit_the_admission_is_what_it_was() -> None:
    p = limited(None)
    assert (p.places, p.place_keys) == ((), ())
    assert b"places" not in p.admission
    assert names.places(0, "x").encode() not in p.admission
