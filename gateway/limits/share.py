"""How much of each limit one gateway process may give away while Redis cannot be asked. Pure.

The policy `share` divides what was left of a limit, when Redis last said, by the number of gateway processes that were
alive then, and counts it here. So as long as all of them are without Redis, together they admit no more than the limit:

    window   (limit − counted) ÷ processes in the first 60 s after the last reply, limit ÷ processes in any 60 s from then on
    quota    (limit − used) ÷ processes, until Redis says again what is used

A limit that Redis never answered for counts as untouched. Where a spend cap applies nothing is admitted.
Memory: MAX_KEYS limits; beyond that nothing is admitted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from gateway.limits.plan import BURST_MINUTES, WINDOW_MS

if TYPE_CHECKING:
    from gateway.limits.plan import Plan, Quota

MAX_KEYS: Final = 100_000
_LONGEST_MS: Final = BURST_MINUTES * WINDOW_MS


class _Used:
    """What was given away of one quota since Redis said `seen`."""

    __slots__ = ("quantity", "seen")

    def __init__(self, seen: Any) -> None:
        self.seen = seen
        self.quantity = 0


class Shares:
    """This process's share of all limits."""

    def __init__(self) -> None:
        self._windows: dict[str, deque[int]] = {}
        self._quotas: dict[str, _Used] = {}

    def take(self, plan: Plan, at_ms: int, processes: int) -> bool:
        """Admit one request of a plan, or nothing. `at_ms` is Unix ms, `processes` at least 1."""
        if plan.priced:
            return False  # a share of money would have to be divided among meters too
        if len(self._windows) + len(self._quotas) >= MAX_KEYS:
            self._prune(at_ms)
            if len(self._windows) + len(self._quotas) >= MAX_KEYS:
                return False
        windows = []
        for index, window in enumerate(plan.windows):
            taken = self._windows.setdefault(window.key, deque())
            while taken and taken[0] <= at_ms - window.length_ms:
                taken.popleft()
            if len(taken) >= (window.limit - _counted(plan, index, at_ms)) // processes:
                return False
            windows.append(taken)
        quotas = []
        for index, quota in enumerate(plan.quotas):
            if quota.limit is None:
                continue
            used = self._used(plan, quota)
            if used.quantity + quota.quantity > (quota.limit - _used(plan, index)) // processes:
                return False
            quotas.append((used, quota.quantity))
        for taken in windows:
            taken.append(at_ms)
        for used, quantity in quotas:
            used.quantity += quantity
        return True

    def _used(self, plan: Plan, quota: Quota) -> _Used:
        used = self._quotas.get(quota.key)
        if used is None or (plan.seen is not None and used.seen is not plan.seen and _is_newer(plan.seen, used.seen)):
            used = self._quotas[quota.key] = _Used(plan.seen)
        return used

    def _prune(self, at_ms: int) -> None:
        for key in [key for key, taken in self._windows.items() if not taken or taken[-1] <= at_ms - _LONGEST_MS]:
            del self._windows[key]


def _is_newer(seen: list[int], than: list[int] | None) -> bool:
    return than is None or seen[1] > than[1]


def _counted(plan: Plan, index: int, at_ms: int) -> int:
    """What was in a window when Redis last said, as long as some of that may still be in it."""
    seen = plan.seen
    if seen is None or seen[1] <= at_ms - plan.windows[index].length_ms:
        return 0
    counted: int = seen[2 + 2 * index]
    return counted


def _used(plan: Plan, index: int) -> int:
    seen = plan.seen
    if seen is None:
        return 0
    used: int = seen[2 + 2 * len(plan.windows) + index]
    return used
