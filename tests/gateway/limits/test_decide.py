"""What a reply of the admit script means: headers in draft-11 form, denials and how long they stand."""

from __future__ import annotations

import pytest

from gateway.limits.decide import denial_of, later, limit_headers
from ledger import problems
from tests.gateway.nouns import NOW, plan, principal, tier

NOW_MS = int(NOW.timestamp() * 1000)
MONTH_S = 31 * 86_400
TO_APRIL_S = 16 * 86_400 + 43_200


def lines(headers: bytes) -> list[str]:
    assert headers.endswith(b"\r\n") or headers == b""
    return headers.decode().splitlines()


def test_the_headers_of_an_admitted_request() -> None:
    made = plan(
        tier(60, requests=1000, tokens=5000, free=None),
        key=principal(requests_per_minute=10),
        meters={"requests": 1, "free": 1, "tokens": 20},
    )
    reply = [0, NOW_MS, 3, NOW_MS - 30_500, 10, NOW_MS, 400, 7, 20]
    assert lines(limit_headers(made, reply)) == [
        'RateLimit-Policy: "minute";q=60;w=60, "key-minute";q=10;w=60, '
        f'"requests";q=1000;w={MONTH_S};qu="requests", "tokens";q=5000;w={MONTH_S}',
        f'RateLimit: "minute";r=57;t=30, "key-minute";r=0;t=60, "requests";r=600;t={TO_APRIL_S}, '
        f'"tokens";r=4980;t={TO_APRIL_S}',
        "X-RateLimit-Limit: 60",
        "X-RateLimit-Remaining: 57",
        "X-RateLimit-Reset: 30",
    ]


def test_a_quota_alone() -> None:
    made = plan(tier(requests=1000))
    assert lines(limit_headers(made, [0, NOW_MS, 1001])) == [
        f'RateLimit-Policy: "requests";q=1000;w={MONTH_S};qu="requests"',
        f'RateLimit: "requests";r=0;t={TO_APRIL_S}',
        "X-RateLimit-Limit: 1000",
        "X-RateLimit-Remaining: 0",
        f"X-RateLimit-Reset: {TO_APRIL_S}",
    ]


def test_without_limits_there_are_no_headers() -> None:
    assert limit_headers(plan(tier(requests=None)), [0, NOW_MS, 5]) == b""
    assert limit_headers(plan(key=principal()), [0, NOW_MS, 5]) == b""


def test_after_the_end_of_the_period_nothing_is_negative() -> None:
    made = plan(tier(requests=1000))
    after = (made.period_end + 5) * 1000
    assert 'RateLimit: "requests";r=998;t=0' in lines(limit_headers(made, [0, after, 2]))


@pytest.mark.parametrize(
    ("oldest_age_ms", "wait_s", "stands_s"), [(0, 60, 60.0), (1, 60, 59.999), (59_000, 1, 1.0), (59_999, 1, 0.001)]
)
def test_a_full_window_is_refused_until_its_oldest_request_leaves(
    oldest_age_ms: int, wait_s: int, stands_s: float
) -> None:
    made = plan(tier(5, requests=1000))
    denial, stands = denial_of(made, [1, NOW_MS, 5, NOW_MS - oldest_age_ms, 17])
    assert (denial.problem, denial.violated, denial.limit, denial.used) == (problems.RATE_LIMITED, "minute", 5, 5)
    assert (denial.wait_s, stands) == (wait_s, stands_s)
    assert f'RateLimit: "minute";r=0;t={wait_s}, "requests";r=983;t={TO_APRIL_S}' in lines(denial.headers)


def test_a_refusal_that_is_remembered_counts_down() -> None:
    made = plan(tier(5))
    reply = [1, NOW_MS, 5, NOW_MS - 20_000]
    assert [denial_of(made, later(reply, s))[0].wait_s for s in (0, 0.9, 1.1, 39.5)] == [40, 40, 39, 1]
    assert b'"minute";r=0;t=39' in denial_of(made, later(reply, 1.1))[0].headers


def test_the_limit_that_refused_is_named() -> None:
    made = plan(tier(5, requests=1000), key=principal(requests_per_minute=3))
    denial, _ = denial_of(made, [2, NOW_MS, 4, NOW_MS - 1_000, 3, NOW_MS - 2_000, 17])
    assert (denial.violated, denial.limit, denial.wait_s) == ("key-minute", 3, 58)


def test_a_used_up_quota_is_refused_until_the_period_ends_but_asked_again_soon() -> None:
    made = plan(tier(5, requests=1000, tokens=50), meters={"requests": 1, "tokens": 20})
    denial, stands = denial_of(made, [3, NOW_MS, 1, NOW_MS, 17, 40])
    assert (denial.problem, denial.violated) == (problems.QUOTA_EXCEEDED, "tokens")
    assert (denial.limit, denial.used, denial.wait_s) == (50, 40, TO_APRIL_S)
    assert stands == 1.0  # a settlement may give some of it back
