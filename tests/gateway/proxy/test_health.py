"""When a target is given no requests, and when it is tried again. Time is what the test says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.proxy.budget import Budget
from gateway.proxy.health import Health, State, Tally, health_of
from ledger.health import ActiveHealthSpec, PassiveHealthSpec, RetryBudgetSpec


def passive(**fields: Any) -> Health:
    spec = PassiveHealthSpec.model_validate({"failures": 3, "eject_ms": 10_000, "max_eject_ms": 30_000, **fields})
    return Health("http://up", spec, None, Tally())


def failing(health: Health, times: int = 3, at: float = 100.0) -> Health:
    for _ in range(times):
        health.failed(at)
    return health


def test_failures_in_a_row_eject_it() -> None:
    health = failing(passive(), times=2)
    assert (health.admits(100), health.state) == (True, State.UP)
    health.failed(100)
    assert (health.admits(100), health.admits(109.9), health.state) == (False, False, State.EJECTED)
    assert health.wait_s(103.5) == 7


def test_an_answer_in_between_begins_anew() -> None:
    health = failing(passive(), times=2)
    health.answered(200, 100)
    health.completed(200, 100)
    assert failing(health, times=2).admits(100)


def test_an_answer_that_breaks_off_does_not() -> None:
    health = passive()
    for _ in range(3):
        health.answered(200, 100)
        health.failed(100)
    assert not health.admits(100)


def rated(**fields: Any) -> Health:
    spec = PassiveHealthSpec.model_validate(
        {"failures": 1000, "failure_percent": 50, "window_ms": 10_000, "min_requests": 10, "eject_ms": 5_000, **fields}
    )
    health = health_of("http://up", spec, None, Tally())
    assert health is not None
    return health


def outcome(health: Health, at: float, *, is_good: bool) -> None:
    if is_good:
        health.answered(200, at)
        health.completed(200, at)
    else:
        health.answered(503, at)
        health.completed(503, at)


def test_a_share_of_failures_ejects_it() -> None:
    health = rated()
    for turn in range(9):
        outcome(health, 100 + turn / 10, is_good=turn % 2 == 0)
    assert health.admits(101)  # too few to judge by
    outcome(health, 101, is_good=False)
    assert (health.state, health.shut_until) == (State.EJECTED, 106)


def test_less_than_that_share_does_not() -> None:
    health = rated(failures=3)
    for turn in range(3_000):
        outcome(health, 100 + turn / 10, is_good=turn % 5 > 1)
    assert health.state == State.UP


def test_only_the_last_requests_count() -> None:
    health = rated()
    for turn in range(9):
        outcome(health, 100 + turn / 100, is_good=False)
    for at in (110.1, 110.2, 140.0):
        outcome(health, at, is_good=False)
    assert health.admits(140)
    for _ in range(6):
        outcome(health, 141, is_good=True)
    for turn in range(6):
        outcome(health, 145 + turn, is_good=False)
    assert not health.admits(150)  # 6 good ones and 7 failures in the last ten seconds


def test_who_fails_every_other_request_is_ejected_for_longer_and_longer() -> None:
    health, at, waits = rated(failure_percent=40), 100.0, []
    for _ in range(3):
        for turn in range(100):
            if health.state != State.UP:
                break
            outcome(health, at, is_good=turn % 2 == 0)
        waits.append(health.shut_until - at)
        at = health.shut_until
        assert health.admits(at)
        outcome(health, at, is_good=True)
    assert waits == [5, 10, 20]
    for _ in range(20):
        outcome(health, at, is_good=True)
    for _ in range(60):
        outcome(health, at, is_good=False)
    assert health.shut_until == at + 5  # it was well in between


def test_a_failed_trial_ejects_it_again_whatever_the_share() -> None:
    health = rated()
    for _ in range(10):
        outcome(health, 100, is_good=False)
    assert health.admits(105)
    health.failed(105)
    assert health.shut_until == 115


def test_whole_classes_of_answers_may_be_failures() -> None:
    spec = PassiveHealthSpec.model_validate({"statuses": ["5xx", 429]})
    assert spec.failing_statuses == {*range(500, 600), 429}
    with pytest.raises(ValidationError):
        PassiveHealthSpec.model_validate({"statuses": ["2xx"]})
    health = health_of("http://up", spec.model_copy(update={"failures": 1}), None, Tally())
    assert health is not None
    health.answered(599, 100)
    assert not health.admits(100)


def test_nobody_counts_shares_who_did_not_ask_for_it() -> None:
    assert type(health_of("http://up", PassiveHealthSpec(), None, Tally())) is Health
    assert health_of("http://up", None, None, Tally()) is None


@pytest.mark.parametrize(
    ("status", "counts"), [(503, True), (502, True), (504, True), (500, False), (429, False), (200, False)]
)
def test_which_answers_are_failures(status: int, counts: bool) -> None:
    health = passive()
    for _ in range(3):
        health.answered(status, 100)
        health.completed(status, 100)
    assert health.admits(100) is not counts


def test_then_one_request_tries_it() -> None:
    health = failing(passive())
    assert [health.admits(at) for at in (110, 110, 110.9, 111.1, 111.2)] == [True, False, False, True, False]
    health.answered(200, 111.5)
    assert (health.state, health.admits(111.5), health.admits(111.5)) == (State.UP, True, True)


def test_a_failed_trial_ejects_it_for_twice_as_long_up_to_a_limit() -> None:
    health, at, waits = failing(passive()), 100.0, []
    for _ in range(4):
        wait = health.shut_until - at
        waits.append(wait)
        at += wait
        assert not health.admits(at - 0.01)
        assert health.admits(at)
        health.failed(at)
    assert waits == [10, 20, 30, 30]
    health.admits(at + 30)
    health.answered(200, at + 30)
    health.completed(200, 100)
    assert failing(health, at=1000).shut_until == 1010  # from the beginning


@pytest.mark.parametrize("eject_ms", [100, 1_000, 10_000])
def test_what_was_sent_before_it_was_ejected_does_not_count_twice(eject_ms: int) -> None:
    health = failing(passive(eject_ms=eject_ms))
    failing(health, times=5, at=100)
    assert health.shut_until == 100 + eject_ms / 1000
    assert health.admits(health.shut_until)
    failing(health, times=5, at=100 + eject_ms / 1000)
    assert health.shut_until == 100 + 3 * eject_ms / 1000


def test_its_end_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    health = Health("http://up", PassiveHealthSpec(failures=1), None, tally)
    health.failed(1)
    assert tally.ejections == 1
    assert "target http://up gets no requests for 10.0 s" in caplog.text


def test_without_declaration_nothing_ejects() -> None:
    health = Health("http://up", None, ActiveHealthSpec(path="/"), Tally())
    assert failing(health, times=100).admits(100)
    health.answered(503, 100)
    assert health.admits(100)


def test_checks_take_it_down_and_up() -> None:
    health = Health("http://up", None, ActiveHealthSpec(path="/", unhealthy=2, healthy=3, interval_ms=1500), Tally())
    seen = []
    for is_good in (False, True, False, False, True, True, False, True, True, True):
        health.checked(is_good=is_good)
        seen.append(health.admits(0))
    assert seen == [True, True, True, False, False, False, False, False, False, True]
    health.checked(is_good=False)
    health.checked(is_good=False)
    assert (health.state, health.wait_s(0)) == (State.DOWN, 2)


@pytest.mark.parametrize("fields", [{"eject_ms": 5000, "max_eject_ms": 4000}, {"failures": 0}, {"statuses": [99]}])
def test_declarations_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PassiveHealthSpec.model_validate(fields)


@pytest.mark.parametrize("path", ["health", "", "/a b", "/a#b", "/a\r\nX: y", "http://evil.test/"])
def test_check_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(ValidationError):
        ActiveHealthSpec(path=path)


# -- retries


def taken(budget: Budget, answered: int, now: float, asked: int = 1000) -> int:
    return sum(budget.take(answered, now) for _ in range(asked))


def test_a_few_retries_a_second_are_always_left() -> None:
    budget = Budget(RetryBudgetSpec(percent=0, min_per_second=3))
    assert [taken(budget, 0, at) for at in (50.0, 50.5, 51.0, 53.0)] == [3, 0, 3, 6]
    assert taken(budget, 0, 60.0) == 3  # counting begins anew


def test_beyond_that_a_share_of_what_is_asked() -> None:
    budget = Budget(RetryBudgetSpec(percent=20, min_per_second=1))
    assert taken(budget, 1000, 50.0) == 1
    assert taken(budget, 1100, 51.0) == 19
    assert taken(budget, 1100, 52.0) == 0
    assert taken(Budget(RetryBudgetSpec(percent=0, min_per_second=0)), 10**6, 1.0) == 0
