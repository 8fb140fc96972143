"""What is told about a request that was tried."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from admin.web.steps import State, steps
from ledger import problems
from ledger.problems import Problem

EVENT = {"meters": {"requests": 1}, "outcome": "completed", "upstream_us": 1500, "route": "weather", "tier": "Free"}


def answered(status: int = 200, body: str = "{}", **headers: str) -> dict[str, Any]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"status": status, "took_ms": 3.0, "headers": fields, "body": body, "user": "ada", "has_key": True}


def refused(problem: Problem) -> dict[str, Any]:
    return answered(problem.status, problem.body("0" * 32).decode(), Content_Type="application/problem+json")


def test_a_request_that_went_through() -> None:
    limits = '"minute";r=59;t=12, "requests";r=9998;t=9'
    matched, known, within, forwarded, counted = steps("weather", answered(RateLimit=limits), EVENT)
    assert {step.state for step in (matched, known, within, forwarded, counted)} == {State.DONE}
    assert (matched.title, matched.detail) == ("Route matched", "weather")
    assert known.detail == "a key made for this, customer ada, tier Free"
    assert within.detail == "59 left of minute, 9,998 left of requests"
    assert forwarded.detail == "answer 200 after 3.0 ms; the upstream took 1.5 ms"
    assert counted.detail == "requests: 1; outcome completed"


@pytest.mark.parametrize(
    ("problem", "at"),
    [
        (problems.NOT_FOUND, 0),
        (problems.METHOD_NOT_ALLOWED, 0),
        (problems.SCOPE_MISSING, 1),
        (problems.TIER_UNKNOWN, 1),
        (problems.IP_NOT_ALLOWED, 1),
        (problems.RATE_LIMITED, 2),
        (problems.QUOTA_EXCEEDED, 2),
        (problems.SPEND_CAP_REACHED, 2),
        (problems.UPSTREAM_UNREACHABLE, 3),
        (problems.CIRCUIT_OPEN, 3),
    ],
)
def test_a_refusal_is_told_at_its_step(problem: Problem, at: int) -> None:
    found = steps("weather", refused(problem), None)
    assert [step.state for step in found[:4]] == [State.DONE] * at + [State.FAILED] + [State.NOT_REACHED] * (3 - at)
    assert (found[at].code, found[at].detail) == (problem.code, problem.detail)
    assert found[4].title == "Not counted"


def test_another_route_took_it() -> None:
    found = steps("catch-all", answered(), EVENT)
    assert found[0].title == "Another route took it: weather"


@pytest.mark.parametrize("body", ["", "[", "[]", '"x"', '{"type": "about:blank", "code": "rate_limited"}'])
def test_a_problem_of_the_upstreams_own_is_an_answer(body: str) -> None:
    found = steps("weather", answered(429, body, content_type="application/problem+json"), EVENT)
    assert [step.state for step in found] == [State.DONE] * 5


def test_what_an_upstream_sends_as_limits_breaks_nothing() -> None:
    for field in ("", ";;;", '"x";r=;t', "r=5", '"a";r=-1', '"a";r=9' * 3, "é;r=٣"):
        assert steps("weather", answered(RateLimit=field), EVENT)[2].state is State.DONE
    assert orjson.loads(orjson.dumps(EVENT)) == EVENT
