"""Waiting for a server: bounded and spread, said once per change, never longer than until the stop."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.dependency import Dependency, backoff_s
from tests.ledger.facts import examples


@examples
@given(attempt=st.integers(0, 10**6), jitter=st.floats(0, 1))
def test_waits_grow_to_five_seconds_and_no_further(attempt: int, jitter: float) -> None:
    assert 0.025 <= backoff_s(attempt, jitter) <= 5
    assert backoff_s(attempt, jitter) <= backoff_s(attempt + 1, jitter)
    assert backoff_s(attempt, jitter) >= backoff_s(attempt, 0) / 2


def test_only_changes_are_logged_and_every_failure_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    failures: list[None] = []
    redis = Dependency("redis", lambda: failures.append(None))

    for happens in (redis.up, redis.up, *3 * [lambda: redis.down("ConnectionError")], redis.up):
        happens()

    assert [record.getMessage() for record in caplog.records] == [
        "redis is up",
        "redis is down: ConnectionError",
        "redis is up",
    ]
    assert len(failures) == 3


def test_a_server_away_from_the_start_is_said_to_be_down_once(caplog: pytest.LogCaptureFixture) -> None:
    redis = Dependency("redis")
    assert not redis.is_up

    redis.down("refused")
    redis.down("still refused")

    assert [record.getMessage() for record in caplog.records] == ["redis is down: refused"]
    assert redis.state == "still refused"


async def test_a_pause_ends_with_the_stop() -> None:
    redis = Dependency("redis")
    stop = asyncio.Event()
    for _ in range(3):
        await redis.pause(asyncio.Event())  # 50, 100, 200 ms at most
    stop.set()

    await asyncio.wait_for(redis.pause(stop), 0.1)
