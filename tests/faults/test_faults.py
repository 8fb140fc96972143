"""One round of each important fault against the real stack; `make chaos` does many more of them, and longer."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.faults.books import Tally
from tests.faults.chaos import run
from tests.faults.load import Seen

SHORT = (
    "redis_paused",
    "redis_killed",
    "redis_emptied",
    "spool_full",
    "connections_cut",
    "worker_killed",
    "postgres_killed",
    "gateway_killed",
)


@pytest.mark.timeout(240)
def test_whatever_fails_nothing_is_lost_nothing_doubled_and_no_limit_passed() -> None:
    total, by_fault = asyncio.run(run(list(SHORT), len(SHORT), seed=20, pause_s=0.7, say=False))
    wrong = {name: tally for name, tally in by_fault.items() if not tally.is_right}
    assert not wrong
    assert total.rounds == len(SHORT)
    assert total.answered > 300
    assert total.refused > 100  # limits were reached, or nothing was proved


def test_a_tally_is_right_only_if_nothing_is_wrong() -> None:
    assert Tally(requests=5, orphaned=1, broken=1, over_share=1).is_right
    for wrong in ({"lost": 1}, {"doubled": 1}, {"over_admitted": 1}, {"faults": ["the rollup says 3"]}):
        assert not Tally(**wrong).is_right  # type: ignore[arg-type]
    both = Tally(rounds=1, lost=1, faults=["a"])
    both.add(Tally(rounds=2, faults=["b"]))
    assert (both.rounds, both.lost, both.faults) == (3, 1, ["a", "b"])
    assert Seen(statuses=Counter({429: 1})).sent == 0
