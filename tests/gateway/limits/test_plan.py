"""Plans: which limits apply, what their counters are called, when they end, and the commands made ready."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import hiredis
import orjson
import pytest

from gateway.limits.calls import ADMIT_SHA
from gateway.limits.plan import WINDOW_MS, Plan
from gateway.store.nouns import Tier
from ledger import names
from ledger.specs import StoreFailure
from tests.gateway.nouns import NOW, PROJECT, customer, plan, principal, route, tier

SHARD = names.shard_of(PROJECT, "cus_ada", 2)
OF_PROJECT = names.shard_of(PROJECT, None, 2)


def seconds(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp())


ID = b"01890000000070008000000000000001"
AT = 1_773_000_000_000


def admission(made: Plan, at_ms: int = AT) -> list[bytes]:
    """The admit call of a request, as Redis reads it."""
    reader = hiredis.Reader()
    reader.feed(made.admit_command(ID, at_ms))
    command: list[bytes] = reader.gets()
    assert reader.gets() is False, "more bytes than the command"
    return command


def test_every_limit_that_applies_is_in_the_plan() -> None:
    made = plan(
        tier(60, requests=1000, tokens=None),
        key=principal(requests_per_minute=10),
        on=route(requests_per_minute=500),
        meters={"requests": 1, "tokens": 20, "nothing": 0},
    )
    assert [(w.name, w.limit, w.key) for w in made.windows] == [
        ("minute", 60, names.window(SHARD, "cus_ada")),
        ("key-minute", 10, names.window(SHARD, "key_1")),
        ("route-minute", 500, names.window(OF_PROJECT, "rte_api")),
    ]
    start = seconds(2026, 3, 1)
    assert [tuple(q) for q in made.quotas] == [
        ("requests", 1000, 1, names.quota(SHARD, "live:cus_ada", "requests", start)),
        ("tokens", None, 20, names.quota(SHARD, "live:cus_ada", "tokens", start)),
    ]
    assert made.fields.quotas == (1000, None)


def test_without_a_customer_the_project_is_counted() -> None:
    made = plan(key=principal())
    assert made.windows == ()
    assert [q.key for q in made.quotas] == [names.quota(OF_PROJECT, f"live:{PROJECT}", "requests", seconds(2026, 3, 1))]
    assert made.fields.format == b""


@pytest.mark.parametrize(
    ("anchor", "now", "start", "end"),
    [
        (None, NOW, seconds(2026, 3, 1), seconds(2026, 4, 1)),
        (datetime(2026, 1, 31, 6, tzinfo=UTC), NOW, seconds(2026, 2, 28, 6), seconds(2026, 3, 31, 6)),
        (datetime(2026, 1, 15, 12, tzinfo=UTC), NOW, seconds(2026, 3, 15, 12), seconds(2026, 4, 15, 12)),
        (datetime(2026, 6, 1, tzinfo=UTC), NOW, seconds(2026, 3, 1), seconds(2026, 4, 1)),  # begins in the future
    ],
)
def test_the_quota_period_follows_the_subscription(anchor: Any, now: datetime, start: int, end: int) -> None:
    made = plan(who=customer(tier(requests=5), anchor=anchor), now=now)
    assert (made.period_start, made.period_end) == (start, end)
    assert made.quotas[0].key.endswith(f":{start}")


def test_the_admission_is_a_command_that_only_lacks_its_reservation() -> None:
    made = plan(tier(60, requests=1000, tokens=None), meters={"requests": 1, "tokens": 20}, idempotency="digest")
    keys = [
        names.reservations(SHARD),
        *(w.key for w in made.windows),
        *(q.key for q in made.quotas),
        names.idempotency(SHARD, "digest"),
        names.epoch(SHARD),
    ]
    end = b"%d" % seconds(2026, 4, 1)
    assert admission(made) == [
        b"EVALSHA", ADMIT_SHA, b"6", *(key.encode() for key in keys),
        ID, made.hold(ID, AT), b"1", b"2", b"1", b"60", b"%d" % WINDOW_MS, b"1000", b"1", end, b"-1", b"20", end,
    ]  # fmt: skip


@pytest.mark.parametrize("at_ms", [0, 7, AT, 9_999_999_999_999, 10_000_000_000_000])
def test_the_call_is_whole_whatever_the_clock_says(at_ms: int) -> None:
    made = plan(tier(60, requests=1000))
    told = orjson.loads(admission(made, at_ms)[8])
    assert (told["id"], told["at"], told["hold"]) == (ID.decode(), at_ms, [[made.quotas[0].key, 1]])


def test_percent_signs_are_only_themselves() -> None:
    stranger = customer(tier(requests=9), external_id="100%d%b%", is_known=False, id="cus_%s%%")
    made = plan(who=stranger, key=principal(), on=route())
    told = admission(made)
    assert made.quotas[0].key.encode() in told
    assert orjson.loads(told[told.index(ID) + 1])["external"] == "100%d%b%"
    assert orjson.loads(b"{%b}" % made.identity)["customer"] == "cus_%s%%"


@pytest.mark.parametrize("external", ["ada", 'quote " and \\', "ü\u2028\U0001f600"])
def test_what_is_held_is_json_that_names_who_and_how_much(external: str) -> None:
    made = plan(who=customer(tier(requests=9), external_id=external, is_known=False), key=principal(), on=route())
    assert orjson.loads(made.hold(b"x", 1)) == {
        "id": "x",
        "at": 1,
        "project": PROJECT,
        "mode": "live",
        "customer": "cus_ada",
        "external": external,
        "key": "key_1",
        "route": "rte_api",
        "gateway": "gw-1",
        "hold": [[made.quotas[0].key, 1]],
        "meters": {"requests": 1},
    }


def test_a_customer_that_has_a_row_is_named_by_its_id_alone() -> None:
    made = plan(tier())
    assert "external" not in orjson.loads(b"{%b}" % made.identity)
    assert made.meters_json == b'"requests":1'


def test_a_burst_is_a_wider_minute_and_a_longer_window_that_makes_it_be_regained() -> None:
    bursting = Tier("tier_b", "b", 60, {}, None, 30)
    made = plan(bursting)
    assert [(w.name, w.limit, w.length_ms) for w in made.windows] == [
        ("minute", 90, 60_000), ("minute-burst", 330, 300_000),
    ]  # fmt: skip
    assert made.windows[0].key != made.windows[1].key
    assert b'"minute";q=90;w=60, "minute-burst";q=330;w=300' in made.fields.format
    assert plan(tier(60)).windows[0].limit == 60


def test_in_shadow_mode_a_route_goes_on_without_redis() -> None:
    shadowy = plan(tier(5), on=route(shadow=True))
    assert (shadowy.is_shadow, shadowy.policy) == (True, StoreFailure.OPEN)
    assert plan(Tier("t", "t", 5, {}, None, None, True)).is_shadow
