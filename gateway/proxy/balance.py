"""Which target of an upstream gets the next request.

`Balancer` takes turns by weight. `CarefulBalancer` passes over targets that are not well, and may prefer the one with the
fewest requests under way for its weight. Failure: where no target may be used, UpstreamBroken (503, Retry-After), unless
the upstream is declared to be tried all the same.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

from gateway.proxy.upstream import UpstreamBroken
from ledger import problems

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.proxy.health import Tally
    from gateway.proxy.pool import Pool


class Balancer:
    """Weighted round robin over the origins of an upstream."""

    __slots__ = ("_order", "_turn")

    def __init__(self, members: list[tuple[Pool, int]]) -> None:
        self._order = _interleave(members)
        self._turn = 0

    def next(self, but: Pool | None = None) -> Pool:
        """The pool whose turn it is; another one than `but` if there is one."""
        order = self._order
        if len(order) == 1:
            return order[0]
        for _ in order:
            self._turn = turn = (self._turn + 1) % len(order)
            if order[turn] is not but:
                break
        return order[turn]


class CarefulBalancer(Balancer):
    """See the module. `refuses`: where no target is well, neither is the answer."""

    __slots__ = ("_by_load", "_clock", "_members", "_refuses", "_tally")

    def __init__(
        self, members: list[tuple[Pool, int]], clock: Clock, tally: Tally, *, by_load: bool, refuses: bool
    ) -> None:
        super().__init__(members)
        self._members = members
        self._clock = clock
        self._tally = tally
        self._by_load = by_load
        self._refuses = refuses

    def next(self, but: Pool | None = None) -> Pool:
        """The pool to use, `but` only if there is no other. Raises UpstreamBroken."""
        first = self._least_busy(but) if self._by_load else Balancer.next(self, but)
        if first is not None and first is not but and (first.health is None or first.health.is_up):
            return first
        return self._among(first, but)

    def _least_busy(self, but: Pool | None) -> Pool | None:
        """Of those that may be asked, the one with the fewest requests under way for its weight; equal ones take turns."""
        members = self._members
        self._turn = turn = (self._turn + 1) % len(members)
        best, least, now = None, 0.0, self._clock.now
        for pool, weight in members[turn:] + members[:turn]:
            if pool is not but and (pool.health is None or pool.health.may_be_tried(now)):
                load = (pool.outstanding + 1) / weight
                if best is None or load < least:
                    best, least = pool, load
        return best

    def _among(self, first: Pool | None, but: Pool | None) -> Pool:
        """The pool to use where the one whose turn it is may not be well."""
        now = self._clock.now
        if first is not None and first is not but and _admits(first, now):
            return first
        start = self._turn % len(self._members)
        for pool, _ in self._members[start:] + self._members[:start]:
            if pool is not but and pool is not first and _admits(pool, now):
                return pool
        if but is not None and _admits(but, now):
            return but
        if not self._refuses:
            return first or Balancer.next(self, but)
        self._tally.refusals += 1
        waits = [pool.health.wait_s(now) for pool, _ in self._members if pool.health is not None]
        raise UpstreamBroken(
            problems.CIRCUIT_OPEN, "no target is well", was_connected=False, retry_after_s=min(waits, default=1)
        )


def _admits(pool: Pool, now: float) -> bool:
    return pool.health is None or pool.health.admits(now)


def _interleave(members: list[tuple[Pool, int]]) -> list[Pool]:
    """Each pool as often as its weight says, at equal distances, and no two begin at the same place."""
    divisor = gcd(*(weight for _, weight in members))
    shares = [weight // divisor for _, weight in members]
    count = len(members)
    turns = [
        ((turn + (index + 0.5) / count) / share, index) for index, share in enumerate(shares) for turn in range(share)
    ]
    return [members[index][0] for _, index in sorted(turns)]
