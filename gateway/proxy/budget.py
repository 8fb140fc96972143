"""How many retries a route may make: a share of its requests, and a few a second at least. Pure.

Counting begins anew every ten seconds. Requests that need no retry cost nothing: what was answered is counted anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ledger.health import RetryBudgetSpec

_SPAN_S: Final = 10.0


class Budget:
    """One route's, in one process."""

    __slots__ = ("_answered", "_since", "_spec", "_taken")

    def __init__(self, spec: RetryBudgetSpec) -> None:
        self._spec = spec
        self._since = float("-inf")
        self._answered = 0
        self._taken = 0

    def take(self, answered: int, now: float) -> bool:
        """Take one retry, if it is left; `answered` counts all requests of the route so far, `now` is in seconds."""
        if now - self._since >= _SPAN_S:
            self._since, self._answered, self._taken = now, answered, 0
        at_least = self._spec.min_per_second * (1 + int(now - self._since))
        if self._taken >= max(at_least, (answered - self._answered) * self._spec.percent // 100):
            return False
        self._taken += 1
        return True
