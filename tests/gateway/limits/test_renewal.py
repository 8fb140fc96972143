"""The script that settles a part and holds the next: exact, all or nothing, and harmless when asked twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import hiredis
import orjson
import pytest
import redis

from gateway.limits.plan import Plan
from gateway.limits.renewal import RENEW, Part, Share, part_record, renew_command
from gateway.metering.metering import Metering, metering_of
from ledger import names
from ledger.specs import RouteSpec
from ledger.sweep import orphan_of
from tests.gateway.nouns import customer, plan, route, tier

NOW = datetime.now(UTC)  # counters of past periods expire at once
A, B = b"a" * 32, b"b" * 32
EVENT = b'{"an":"event"}'


@pytest.fixture
def server(redis_url: str) -> Any:
    client = redis.Redis.from_url(redis_url)
    client.script_load(RENEW)
    yield client
    client.close()


def metered(**quotas: int | None) -> Plan:
    """A plan whose route measures messages (by 3) and tokens (by 10)."""
    spec = RouteSpec(name="api", path="/*", upstream="up", meters={"messages": "messages", "tokens": "$.n"})  # type: ignore[dict-item]
    metering = metering_of(spec, quotas, is_websocket=True)
    assert isinstance(metering, Metering)
    return plan(tier(**quotas), on=route(), meters={}, metering=metering, now=NOW)


def shares(of: Plan, least: int = 1) -> list[Share]:
    return [Share(of.quotas[0], least, 3), Share(of.quotas[1], 10, 10)]


def renew(server: Any, old: Plan, following: Plan, **different: Any) -> list[int]:
    corrections = different.get("corrections", [(old.quotas[0].key, -1), (old.quotas[1].key, 5)])
    asked = different.get("shares", shares(following))
    reader = hiredis.Reader()
    reader.feed(renew_command(Part(old, A, 1), EVENT, corrections, Part(following, B, 7), asked))
    reply: list[int] = server.execute_command(*reader.gets())
    return reply


def used(server: Any, of: Plan) -> list[int]:
    return [int(server.get(quota.key) or 0) for quota in of.quotas]


def hold(server: Any, of: Plan, *quantities: int) -> None:
    for quota, quantity in zip(of.quotas, quantities, strict=True):
        server.set(quota.key, quantity)
    server.hset(of.reservations, A, "{}")
    server.set(names.epoch_beside(of.reservations), "1")


def test_one_part_is_settled_and_the_next_is_held(server: Any) -> None:
    p = metered(messages=100, tokens=None)
    hold(server, p, 3, 10)
    assert renew(server, p, p) == [0, 3, 10]
    assert used(server, p) == [3 - 1 + 3, 10 + 5 + 10]
    assert server.hkeys(p.reservations) == [B]
    [(_, entry)] = server.xrange(p.stream)
    assert entry == {b"e": EVENT}
    held = orjson.loads(server.hget(p.reservations, B))
    assert (held["id"], held["at"], held["meters"]) == (B.decode(), 7, {"messages": 3, "tokens": 10})
    event, corrections = orphan_of(server.hget(p.reservations, B), "release")  # the sweeper can resolve it
    assert corrections == [(p.quotas[0].key, -3), (p.quotas[1].key, -10)]
    assert orjson.loads(event)["customer"] == "cus_ada"


def test_asked_twice_it_answers_the_same_and_changes_nothing(server: Any) -> None:
    p = metered(messages=6, tokens=None)
    hold(server, p, 5, 10)
    first = renew(server, p, p)
    assert first == [0, 2, 10]  # what was left
    counters = used(server, p)
    assert counters == [6, 25]
    assert renew(server, p, p) == first
    assert used(server, p) == counters
    assert server.hlen(p.reservations) == 1


@pytest.mark.parametrize("least", [0, 1])
def test_when_nothing_is_left(server: Any, least: int) -> None:
    p = metered(messages=4, tokens=None)
    hold(server, p, 5, 10)
    reply = renew(server, p, p, shares=shares(p, least))
    assert reply == ([1, 0, 0] if least else [0, 0, 10])
    assert used(server, p) == [4, 15 if least else 25]
    assert server.hkeys(p.reservations) == [B]  # so that it can be settled
    assert renew(server, p, p, shares=shares(p, least)) == reply


def test_a_refusal_by_one_quota_holds_of_none(server: Any) -> None:
    p = metered(messages=100, tokens=20)
    hold(server, p, 3, 10)
    assert renew(server, p, p) == [2, 0, 0]
    assert used(server, p) == [2, 15]


def test_one_that_is_not_held_any_more_is_not_corrected(server: Any) -> None:
    p = metered(messages=None, tokens=None)
    hold(server, p, 3, 10)
    server.delete(p.reservations)
    assert renew(server, p, p) == [0, 3, 10]
    assert used(server, p) == [6, 20]


def test_over_a_period_s_end(server: Any) -> None:
    old = metered(messages=4, tokens=None)
    metering = old.metering
    later = plan(
        old.tier, on=route(), meters={}, metering=metering, now=NOW + timedelta(days=32), who=customer(old.tier)
    )
    hold(server, old, 4, 10)
    assert renew(server, old, later) == [0, 3, 10]
    assert used(server, old) == [3, 15]
    assert used(server, later) == [3, 10]
    assert server.ttl(later.quotas[0].key) > 0


def test_what_a_part_holds_can_be_told_again_by_way_of_the_spool(server: Any) -> None:
    p = metered(messages=100, tokens=None)
    hold(server, p, 3, 10)
    renew(server, p, p)
    record = orjson.loads(part_record(Part(p, B, 7), p.quotas, [3, 10]))
    there = orjson.loads(server.hget(p.reservations, B))
    assert there.pop("refused") == 0
    assert orjson.loads(record["hold"]) == there
    assert record["quotas"] == [[p.quotas[0].key, 3, p.period_end], [p.quotas[1].key, 10, p.period_end]]


def test_where_the_counters_are_lost_nothing_is_changed(server: Any) -> None:
    p = metered(messages=100, tokens=None)
    hold(server, p, 3, 10)
    server.delete(names.epoch_beside(p.reservations))
    assert renew(server, p, p) == [-2]
    assert used(server, p) == [3, 10]
    assert server.hkeys(p.reservations) == [A]
    assert server.xlen(p.stream) == 0


def test_without_any_meter(server: Any) -> None:
    p = metered()
    server.set(names.epoch_beside(p.reservations), "1")
    assert renew(server, p, p, corrections=[], shares=[]) == [0]
    assert orjson.loads(server.hget(p.reservations, B))["hold"] in ([], {})
