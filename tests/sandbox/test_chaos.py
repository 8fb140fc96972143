"""A short version of `make chaos-sandbox`: the whole stack, mixed runs, kills of what can be killed; and its judge."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from typing import Any

import pytest

from tests.sandbox.chaos.__main__ import run
from tests.sandbox.chaos.books import Tally, judge
from tests.sandbox.chaos.kills import Victim, schedule
from tests.sandbox.chaos.load import Seen
from tests.sandbox.chaos.programs import WEIGHTS, program

SEED = 108
RUNS, EVERY = 70, 16


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("bwrap") is None, reason="needs root and bubblewrap")
def test_runs_and_kills_leave_nothing_and_every_accepted_run_is_counted_once() -> None:
    tally, done = asyncio.run(run(RUNS, SEED, every=EVERY))
    assert tally.wrong == []
    assert tally.is_right
    assert (tally.runs, tally.left_behind) == (RUNS, 0)
    assert tally.events >= tally.accepted > RUNS / 3
    assert tally.measured >= 10
    assert {Victim.SERVICE, Victim.BROKER, Victim.ZYGOTE, Victim.GATEWAY} == set(done["kills"])


def test_a_seed_decides_programs_and_kills() -> None:
    assert [program(SEED, n) for n in range(50)] == [program(SEED, n) for n in range(50)]
    assert len({program(SEED, n).name for n in range(400)}) == len(WEIGHTS)
    kills = list(schedule(SEED, RUNS, EVERY, has_zygote=True))
    assert kills == list(schedule(SEED, RUNS, EVERY, has_zygote=True))
    assert {victim for _, _, victim in schedule(1, 10_000, 40, has_zygote=True)} == set(Victim)
    assert all(earlier[0] < later[0] for earlier, later in itertools.pairwise(kills))


def seen(own_ms: float = 200.0, cpu_ms: int = 205, status: int = 200, **more: Any) -> Seen:
    """A run of `burn` as its client saw it."""
    number = next(n for n in itertools.count() if program(SEED, n).name == "burn")
    usage = {"cpuMs": cpu_ms, "memMB": 6.0, "durationMs": 300, "memMBs": 2, "runs": 1}
    told = f"measured {json.dumps({'cpuMs': own_ms})}\n"
    reply = {"reason": "exit", "usage": usage, "stdout": told, "stderr": "", **more} if status == 200 else None
    return Seen(number, program(SEED, number), status, 0.4, reply)


def event(runs: int = 1, cpu_ms: int = 205, outcome: str = "completed") -> tuple[dict[str, str], dict[str, int]]:
    return {"outcome": outcome}, {"requests": 1, "runs": runs, "cpu_ms": cpu_ms, "mem_mb_s": 2}


def judged(one: Seen, *events: tuple[dict[str, str], dict[str, int]]) -> Tally:
    tally = Tally()
    judge(tally, one, list(events))
    return tally


def test_the_judge_sees_what_is_wrong() -> None:
    assert judged(seen(), event()).is_right
    assert judged(seen()).lost == 1
    assert judged(seen(), event(runs=0)).lost == 1
    assert judged(seen(), event(), event()).doubled == 1
    assert judged(seen(), event(runs=2)).doubled == 1
    assert judged(seen(status=502), event()).doubled == 1
    assert judged(seen(own_ms=180.0), event()).off_by_more_than_10_percent == 1
    assert judged(seen(own_ms=230.0), event()).off_by_more_than_10_percent == 1
    assert judged(seen(), event(cpu_ms=204)).off_by_more_than_10_percent == 1  # not what the client was told
    assert judged(seen(stdout=""), event()).off_by_more_than_10_percent == 1
    assert judged(seen(reason="signal"), event()).wrong
    assert judged(seen(status=500)).wrong
    assert judged(seen(), event(outcome="orphaned")).estimated == 1
    assert judged(seen(status=503)).refused == 1
    assert not judged(seen(status=503)).is_right  # nothing was accepted
