"""How it is noticed that a target of an upstream is not well, and what follows."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ledger.spec_types import Spec, matching

_TARGET = re.compile(r"/[\x21\x22\x24-\x7e]{0,1023}")  # printable ASCII without space and '#'

Status = Annotated[int, Field(ge=200, le=599)]
StatusClass = Literal["4xx", "5xx"]


class PassiveHealthSpec(Spec):
    """By what comes of requests: a target that fails too often gets none for a while, then one to try it with.

    It fails where it cannot be connected to, breaks off, is silent for too long, or answers with one of `statuses`.
    """

    failures: int = Field(default=5, ge=1, le=10_000)
    """So often in a row is too often,"""
    failure_percent: int | None = Field(default=None, ge=1, le=100)
    """and so, if this is given, is that share of the requests of a `window_ms` in which there were `min_requests`."""
    window_ms: int = Field(default=10_000, ge=1_000, le=600_000)
    min_requests: int = Field(default=20, ge=2, le=1_000_000)
    statuses: Annotated[tuple[Status | StatusClass, ...], Field(max_length=64)] = (502, 503, 504)
    """Answers by which a server says that it is not well; `5xx` stands for all of them."""
    eject_ms: int = Field(default=10_000, ge=100, le=3_600_000)
    """How long it gets none; twice as long each further time."""
    max_eject_ms: int = Field(default=300_000, ge=100, le=86_400_000)
    when_none_is_left: Literal["refuse", "try_all"] = "refuse"
    """Refuse with 503 and Retry-After until a target may be tried, or send requests as if all were well."""

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.max_eject_ms < self.eject_ms:
            raise ValueError("max_eject_ms is shorter than eject_ms")
        return self

    @property
    def failing_statuses(self) -> frozenset[int]:
        """All statuses that are failures."""
        found: set[int] = set()
        for status in self.statuses:
            found |= (
                {status} if isinstance(status, int) else set(range(int(status[0]) * 100, int(status[0]) * 100 + 100))
            )
        return frozenset(found)


class ActiveHealthSpec(Spec):
    """By asking: each gateway process sends a GET at this interval; without answers a target gets no requests."""

    path: Annotated[str, matching(_TARGET, "a path such as /health")]
    """After the target's base path."""
    interval_ms: int = Field(default=5_000, ge=100, le=3_600_000)
    timeout_ms: int = Field(default=2_000, ge=10, le=60_000)
    unhealthy: int = Field(default=3, ge=1, le=1_000)
    """How many bad answers in a row make it down,"""
    healthy: int = Field(default=2, ge=1, le=1_000)
    """and how many good ones make it up again."""
    statuses: Annotated[tuple[Status, ...], Field(max_length=64)] = ()
    """Good answers; without any, 200 to 399."""


class RetryBudgetSpec(Spec):
    """How many retries there may be, so that an upstream in trouble does not get more requests for it."""

    percent: int = Field(default=20, ge=0, le=100)
    """Of the route's requests in the last seconds,"""
    min_per_second: int = Field(default=50, ge=0, le=1_000_000)
    """and at least so many, by each gateway process."""
