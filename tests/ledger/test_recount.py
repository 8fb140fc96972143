"""What counters should say: each fact in the period of its own time, on the shard of its customer, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from ledger import names
from ledger.ids import uuid7
from ledger.recount import Counter, Recount, event_of, held_of, last_periods
from tests.ledger.facts import PROJECT, fact

SHARDS = 4
ADA = "cus_ada"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def recount(anchor: datetime | None = None, limited: set[str] | None = None) -> Recount:
    return Recount(SHARDS, set(range(SHARDS)), {ADA: anchor} if anchor else {}, limited or set())


def quota(start: datetime, owner: str = ADA, customer: str | None = ADA, meter: str = "requests") -> tuple[int, str]:
    shard = names.shard_of(PROJECT, customer, SHARDS)
    return shard, names.quota(shard, f"live:{owner}", meter, int(start.timestamp()))


@pytest.mark.parametrize(
    ("anchor", "at", "start", "end"),
    [
        (None, "2027-02-28T23:59:59.999", "2027-02-01", "2027-03-01"),
        (None, "2027-03-01T00:00:00", "2027-03-01", "2027-04-01"),
        (None, "2028-02-29T23:59:59.999", "2028-02-01", "2028-03-01"),
        ("2027-01-31T10:20:30", "2027-02-28T10:20:29.999", "2027-01-31T10:20:30", "2027-02-28T10:20:30"),
        ("2027-01-31T10:20:30", "2027-02-28T10:20:30", "2027-02-28T10:20:30", "2027-03-31T10:20:30"),
        ("2027-01-31T10:20:30", "2028-02-29T10:20:30", "2028-02-29T10:20:30", "2028-03-31T10:20:30"),
    ],
)
def test_a_fact_counts_in_the_period_of_its_own_time(anchor: str | None, at: str, start: str, end: str) -> None:
    count = recount(moment(anchor) if anchor else None)
    count.used(PROJECT, "live", ADA, "requests", 3, moment(at))
    shard, key = quota(moment(start))
    assert dict(count.counters) == {shard: {key: Counter(3, int(moment(end).timestamp()))}}


def test_an_event_settled_after_midnight_counts_before_it() -> None:
    at = moment("2027-02-28T23:59:59.999")
    raw = orjson.dumps(fact(int(at.timestamp() * 1000), customer=ADA, meters={"requests": 1}))
    count = recount()
    event = event_of(raw)
    assert event is not None
    count.happened(event, 0)
    shard, key = quota(moment("2027-02-01"))
    assert list(count.counters[shard]) == [key]


def test_who_has_no_customer_counts_for_the_project() -> None:
    count = recount()
    count.used(PROJECT, "live", None, "requests", 1, moment("2027-02-10"))
    shard, key = quota(moment("2027-02-01"), PROJECT, None)
    assert count.counters[shard][key].value == 1


def test_bytes_have_a_counter_only_where_a_tier_has_a_quota_of_them() -> None:
    for limited, expected in ((set(), 0), ({"meter:bytes_out"}, 1)):
        count = recount(limited=limited)
        count.used(PROJECT, "live", ADA, "bytes_out", 9, moment("2027-02-10"))
        assert sum(len(of_shard) for of_shard in count.counters.values()) == expected


def held(**different: Any) -> bytes:
    fields: dict[str, Any] = {
        "id": uuid7().hex, "at": 1_800_000_000_000, "project": PROJECT, "mode": "live", "customer": ADA,
        "key": "key_1", "route": "rte_1", "gateway": "gw", "meters": {"requests": 2}, "hold": [["tg:x", 2]],
    }  # fmt: skip
    return orjson.dumps(fields | different)


def test_what_is_held_counts_by_the_counters_it_names_and_fills_the_windows_that_have_a_limit() -> None:
    count = recount(limited={"rte_1"})
    one = held_of(held())
    assert one is not None
    shard = names.shard_of(PROJECT, ADA, SHARDS)
    count.holds(shard, one, 0)
    count.holds(shard, one, 1_900_000_000_000)  # longer ago than a minute: no window
    assert count.counters[shard]["tg:x"].value == 4
    of_route = names.shard_of(PROJECT, None, SHARDS)
    assert count.windows[shard][names.window(shard, ADA)] == [1_800_000_000_000]
    assert count.windows[of_route][names.window(of_route, "rte_1")] == [1_800_000_000_000]
    assert names.window(shard, "key_1") not in count.windows[shard]


def test_a_further_part_of_a_long_request_fills_no_window() -> None:
    count = recount(limited={"rte_1"})
    one = held_of(held(is_part=True))
    assert one is not None
    shard = names.shard_of(PROJECT, ADA, SHARDS)
    count.holds(shard, one, 0)
    assert count.counters[shard]["tg:x"].value == 2
    assert not any(count.windows.values())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"hold":1}', held(hold=[["x", "many"]]), held(at=None)])
def test_what_is_no_reservation_is_left_alone(raw: bytes) -> None:
    assert held_of(raw) is None


def test_other_shards_are_left_alone() -> None:
    shard = names.shard_of(PROJECT, ADA, SHARDS)
    count = Recount(SHARDS, {shard + 1}, {}, set())
    count.used(PROJECT, "live", ADA, "requests", 1, moment("2027-02-10"))
    count.admitted(PROJECT, ADA, None, None, 5)
    assert not any(count.counters.values())
    assert not any(count.windows.values())


def test_around_the_end_of_a_period_both_are_counted() -> None:
    end = moment("2027-03-01")
    skew = timedelta(minutes=10)
    assert len(list(last_periods(None, end + timedelta(minutes=9), end - timedelta(minutes=1)))) == 2
    assert list(last_periods(None, end + skew, end)) == [(end, moment("2027-04-01"))]
