"""How a machine is played: how many games of how many steps, and a loop for those that are asynchronous."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

IS_DEEP: Final = os.environ.get("MACHINES") == "deep"
_TIMES: Final = 40


def play(make: Callable[[], RuleBasedStateMachine], *, games: int, steps: int) -> None:
    """Play; deep: 40 times as many games, twice as long, others every time, and the one that fails is made short."""
    how = settings(
        max_examples=games * _TIMES if IS_DEEP else games,
        stateful_step_count=2 * steps if IS_DEEP else steps,
        deadline=None,
        database=None,
        derandomize=not IS_DEEP,
        phases=(Phase.generate, Phase.shrink) if IS_DEEP else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(make, settings=how)
