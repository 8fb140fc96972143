"""The admit script on a real Redis: exact, all or nothing, and nothing left behind by a refusal."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.limits.decide import UNKNOWN
from ledger.names import idempotency
from tests.gateway.limits.scripts import EPOCH, MINUTE, PERIOD_END, RESERVATIONS, Ask, ClockedScripts, Scripts

examples = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NOON = 1_763_640_000_000

# Gaps around the ends of a window are where an off-by-one would show.
gaps = st.integers(0, 3_000) | st.sampled_from((0, 1, MINUTE - 1, MINUTE, MINUTE + 1, 2 * MINUTE, 2 * MINUTE + 1))
arrivals = st.lists(gaps, min_size=1, max_size=40)


def windows(*limits: int) -> Ask:
    return Ask(windows=[(f"w{n}", limit, MINUTE) for n, limit in enumerate(limits)])


# -- windows


@given(arrivals, st.integers(1, 5))
@example(gaps=[0, 0, MINUTE - 1, 1], limit=3)  # two leave at the same moment, a later one stays
@examples
def test_a_request_is_admitted_exactly_if_fewer_than_the_limit_were_in_the_last_minute(
    clocked: ClockedScripts, gaps: list[int], limit: int
) -> None:
    clocked.forget()
    admitted: list[int] = []
    at = NOON
    for gap in gaps:
        at += gap
        recent = [t for t in admitted if t > at - MINUTE]
        reply = clocked.admit_at(at, windows(limit))
        if len(recent) < limit:
            assert reply == [0, at, len(recent) + 1, min([*recent, at])]
            admitted.append(at)
        else:
            assert reply == [1, at, len(recent), recent[0]]
        assert len([t for t in admitted if t > at - MINUTE]) <= limit


@given(arrivals, st.integers(1, 4), st.integers(1, 4), st.integers(0, 12))
@examples
def test_several_limits_admit_together_or_not_at_all(
    clocked: ClockedScripts, gaps: list[int], first: int, second: int, quota: int
) -> None:
    clocked.forget()
    ask = Ask(windows=[("w1", first, MINUTE), ("w2", second, 10_000)], quotas=[("q", quota, 1), ("free", -1, 3)])
    admitted: list[int] = []
    at = NOON
    for gap in gaps:
        at += gap
        counts = [len([t for t in admitted if t > at - length]) for length in (MINUTE, 10_000)]
        refused_by = [
            n
            for n, is_over in enumerate((counts[0] >= first, counts[1] >= second, len(admitted) >= quota), 1)
            if is_over
        ]
        before = {key: value for key, value in clocked.everything().items() if not key.startswith((b"now:", b"exp"))}
        verdict, _, *figures = clocked.admit_at(at, ask)
        assert verdict == (refused_by[0] if refused_by else 0)
        if verdict == 0:
            admitted.append(at)
            counts = [count + 1 for count in counts]
        else:
            assert clocked.redis.hgetall(RESERVATIONS) == before.get(RESERVATIONS.encode(), {})
        assert [figures[0], figures[2]] == counts
        assert figures[4:] == [len(admitted), 3 * len(admitted)]


def test_a_list_lives_as_long_as_anything_in_it_counts(scripts: Scripts) -> None:
    ask = windows(5)
    scripts.admit(ask)
    assert MINUTE < scripts.redis.pttl("w0") <= 2 * MINUTE
    scripts.redis.pexpire("w0", 50_000)
    scripts.redis.lset("w0", 0, int(scripts.redis.lindex("w0", 0)) - MINUTE)  # a minute passes
    scripts.admit(ask)
    assert 2 * MINUTE - 5_000 < scripts.redis.pttl("w0") <= 2 * MINUTE


def test_a_refusal_says_since_when_the_window_is_full(scripts: Scripts) -> None:
    _, first, _, _ = scripts.admit(windows(2))
    scripts.admit(windows(2))
    verdict, now, count, oldest = scripts.admit(windows(2))
    assert (verdict, count, oldest) == (1, 2, first)
    assert now >= first


# -- quotas


def test_a_quota_is_used_up_to_its_last_unit(scripts: Scripts) -> None:
    ask = Ask(quotas=[("q", 10, 3)])
    verdicts = [scripts.admit(ask)[0::2] for _ in range(5)]
    assert verdicts == [[0, 3], [0, 6], [0, 9], [1, 9], [1, 9]]
    assert scripts.admit(Ask(quotas=[("q", 10, 1)]))[0::2] == [0, 10]


def test_a_quota_of_nothing_admits_nothing(scripts: Scripts) -> None:
    assert scripts.admit(Ask(quotas=[("q", 0, 1)]))[0] == 1


def test_an_unlimited_quota_counts_all_the_same(scripts: Scripts) -> None:
    ask = Ask(quotas=[("q", -1, 2**53)])
    assert [scripts.admit(ask)[2] for _ in range(3)] == [2**53, 2**54, 3 * 2**53]
    assert int(scripts.redis.get("q")) == 3 * 2**53


def test_a_counter_is_kept_for_a_week_after_its_period(scripts: Scripts) -> None:
    scripts.admit(Ask(quotas=[("q", 10, 2)]))
    assert abs(time.time() + scripts.redis.ttl("q") - PERIOD_END - 7 * 86_400) < 5
    scripts.redis.persist("q")
    scripts.admit(Ask(quotas=[("q", 10, 2)]))
    assert scripts.redis.ttl("q") == -1  # set once, with the first unit


@pytest.mark.parametrize("ask", [windows(100), Ask(quotas=[("q", 100, 1)])], ids=["window", "quota"])
def test_many_at_once_are_admitted_exactly_to_the_limit(redis_url: str, ask: Ask) -> None:
    verdicts: list[int] = []

    def client(number: int) -> None:
        scripts = Scripts(redis_url)
        verdicts.extend([scripts.admit(ask, f"{number:016x}{turn:016x}")[0] for turn in range(40)])
        scripts.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (verdicts.count(0), len(verdicts)) == (100, 320)


# -- reservations and markers


def test_what_is_admitted_is_held_and_what_is_refused_is_not(scripts: Scripts) -> None:
    ask = Ask(windows=[("w", 1, MINUTE)], quotas=[("q", 10, 1)])
    scripts.admit(ask, "a" * 32)
    before = scripts.everything()
    assert before[RESERVATIONS.encode()] == {b"a" * 32: b"{}"}
    assert scripts.admit(ask, "b" * 32)[0] == 1
    assert scripts.everything() == before


@pytest.mark.parametrize("refused_by", ["window", "quota"])
def test_a_first_request_that_is_refused_leaves_no_trace(scripts: Scripts, refused_by: str) -> None:
    full = ("full", 1, MINUTE)
    if refused_by == "window":
        scripts.admit(Ask(windows=[full]))
        ask = Ask(windows=[("new", 5, MINUTE), full], quotas=[("q", 10, 1)])
    else:
        ask = Ask(windows=[("new", 5, MINUTE)], quotas=[("q", 0, 1)])
    assert scripts.admit(ask)[0] > 0
    left: dict[bytes, Any] = scripts.everything()
    assert left.get(b"q", b"0") == b"0"
    assert b"new" not in left


def test_what_was_counted_before_is_not_counted_again(scripts: Scripts) -> None:
    marker = idempotency(0, "digest")
    ask = Ask(windows=[("w", 9, MINUTE)], quotas=[("q", 9, 4)], marker=marker)
    assert scripts.admit(ask, "a" * 32)[0] == 0
    before = scripts.everything()
    assert scripts.admit(ask, "b" * 32)[0::2] == [-1, 1, 4]
    assert scripts.everything() == before
    assert 86_000 < scripts.redis.ttl(marker) <= 86_400


def test_a_count_that_is_refused_may_be_tried_again(scripts: Scripts) -> None:
    marker = idempotency(0, "digest")
    assert scripts.admit(Ask(quotas=[("q", 3, 4)], marker=marker))[0] == 1
    assert scripts.admit(Ask(quotas=[("q", 4, 4)], marker=marker))[0] == 0


# -- counters that were lost


def test_who_finds_nothing_in_a_shard_that_is_not_whole_is_neither_admitted_nor_refused(scripts: Scripts) -> None:
    asks = (
        Ask(windows=[("w", 5, MINUTE)]),
        Ask(quotas=[("q", 5, 2)]),
        Ask(quotas=[("q", -1, 1)]),
        Ask(windows=[("w", 5, MINUTE), ("v", 1, MINUTE)], quotas=[("q", 1, 2), ("p", -1, 1)], marker="m"),
    )
    scripts.redis.delete(EPOCH)
    for ask in asks:
        assert scripts.admit(ask)[0] == UNKNOWN
        assert scripts.everything() == {}
    scripts.redis.set(EPOCH, "whole")
    assert [scripts.admit(ask)[0] for ask in asks[:3]] == [0, 0, 0]


def test_one_lost_counter_among_others_is_enough(scripts: Scripts) -> None:
    both = Ask(windows=[("w", 5, MINUTE)], quotas=[("q", 5, 2)])
    scripts.admit(both)
    scripts.redis.delete(EPOCH, "q")
    before = scripts.everything()
    assert scripts.admit(both)[0] == UNKNOWN
    assert scripts.everything() == before


def test_counters_that_are_there_need_no_epoch(scripts: Scripts) -> None:
    """Who connects to another Redis than before does not ask at all until it is whole: gateway.limits.report."""
    both = Ask(windows=[("w", 5, MINUTE)], quotas=[("q", 50, 2)])
    scripts.admit(both)
    scripts.redis.delete(EPOCH)
    assert scripts.admit(both)[0] == 0


# -- bursts and shadow mode


@given(times=st.lists(st.integers(0, 700_000), max_size=60))
@examples
def test_a_burst_never_passes_either_window(clocked: ClockedScripts, times: list[int]) -> None:
    clocked.forget()
    ask = Ask(windows=[("w", 5, MINUTE), ("b", 12, 5 * MINUTE)])  # 2 a minute and 3 more, 10 and 2 in five
    admitted = [at for at in sorted(times) if clocked.admit_at(NOON + at, ask)[0] == 0]
    for first in admitted:
        assert sum(first <= at < first + MINUTE for at in admitted) <= 5
        assert sum(first <= at < first + 5 * MINUTE for at in admitted) <= 12


def test_shadow_mode_admits_everything_and_says_what_it_would_have_refused(scripts: Scripts) -> None:
    ask = Ask(windows=[("w", 2, MINUTE)], quotas=[("q", 3, 1)], shadow=True)
    replies = [scripts.admit(ask) for _ in range(5)]
    assert [(reply[0], reply[-1]) for reply in replies] == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 1)]
    assert scripts.redis.llen("w") == 2  # what would have been refused fills nothing
    assert scripts.redis.get("q") == b"5"  # and was used all the same
    assert scripts.redis.hlen(RESERVATIONS) == 5
    by_quota = Ask(quotas=[("q", 3, 1)], shadow=True)
    assert scripts.admit(by_quota)[-1] == 1
