"""What one gateway process may admit by itself: its part of what was left, and of a minute, never more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import share
from gateway.limits.plan import WINDOW_MS, Plan
from gateway.limits.share import Shares
from tests.gateway.nouns import plan, tier

NOW = 1_790_000_000_000


def admitted(shares: Shares, made: Plan, times: list[int], processes: int) -> list[int]:
    return [at for at in times if shares.take(made, at, processes)]


def seen(made: Plan, at_ms: int, *figures: int) -> Plan:
    made.seen = [0, at_ms, *figures]
    return made


@pytest.mark.parametrize(("processes", "expected"), [(1, 10), (2, 5), (3, 3), (10, 1), (11, 0)])
def test_a_minute_is_divided_among_all_processes(processes: int, expected: int) -> None:
    assert len(admitted(Shares(), plan(tier(10)), [NOW] * 20, processes)) == expected


def test_what_was_counted_before_is_not_given_away_again() -> None:
    made = seen(plan(tier(10)), NOW, 4, NOW - 10)
    shares = Shares()
    assert len(admitted(shares, made, [NOW + 1] * 20, 2)) == 3
    later = NOW + WINDOW_MS + 1  # all that was counted then has left the window
    assert len(admitted(shares, made, [later] * 20, 2)) == 5


@given(
    times=st.lists(st.integers(0, 4 * WINDOW_MS), max_size=80),
    limit=st.integers(1, 12),
    processes=st.integers(1, 5),
    counted=st.integers(0, 12),
)
def test_never_more_than_the_share_in_any_60_seconds(
    times: list[int], limit: int, processes: int, counted: int
) -> None:
    made = seen(plan(tier(limit)), NOW, min(counted, limit), NOW)
    taken = admitted(Shares(), made, [NOW + t for t in sorted(times)], processes)
    for first in taken:
        assert sum(first <= at < first + WINDOW_MS for at in taken) <= limit // processes


def test_a_quota_is_divided_by_what_was_left_of_it() -> None:
    made = plan(tier(requests=100), meters={"requests": 3})
    assert len(admitted(Shares(), made, [NOW] * 99, 2)) == 16  # 48 of 50
    assert len(admitted(Shares(), seen(made, NOW, 90), [NOW] * 99, 2)) == 1
    assert len(admitted(Shares(), seen(made, NOW, 100), [NOW] * 99, 2)) == 0


def test_what_redis_says_later_replaces_what_was_given_away_before() -> None:
    made, shares = seen(plan(tier(requests=100)), NOW, 80), Shares()
    assert len(admitted(shares, made, [NOW] * 99, 2)) == 10
    seen(made, NOW + 1, 90)  # the ten are in there now
    assert len(admitted(shares, made, [NOW] * 99, 2)) == 5


def test_without_limits_everything_is_admitted() -> None:
    assert len(admitted(Shares(), plan(tier(requests=None)), [NOW] * 50, 9)) == 50


def test_a_refusal_takes_nothing() -> None:
    both = plan(tier(4, requests=2))
    shares = Shares()
    assert len(admitted(shares, both, [NOW] * 10, 1)) == 2
    assert len(admitted(shares, plan(tier(4)), [NOW] * 10, 1)) == 2  # the same customer's minute: two of four are left


def test_memory_is_bounded_and_beyond_it_nothing_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "MAX_KEYS", 2)
    shares = Shares()

    def of(name: str, **more: Any) -> Plan:
        from tests.gateway.nouns import customer

        return plan(who=customer(tier(10), id=f"cus_{name}"), **more)

    assert [shares.take(of(name), NOW, 1) for name in "abc"] == [True, True, False]
    assert shares.take(of("c"), NOW + 5 * WINDOW_MS + 1, 1)  # after the longest window there is
