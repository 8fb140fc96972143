"""Whether a target is well, by what comes of requests and of checks. Pure: who asks brings the time.

    up ──failures in a row──▶ ejected ──its time is over──▶ one request tries it ──▶ up, or ejected for twice as long
    up ──share of failures──▶ ejected
    up ──bad checks in a row──▶ down ──good checks in a row──▶ up

An ejected target is an open circuit. A trial whose end is never heard of (the client left) is followed by another one a
second later. Everything is per gateway process. A share of failures is of a sliding window, kept in tenths.
"""

from __future__ import annotations

import logging
from enum import IntEnum
from math import ceil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ledger.health import ActiveHealthSpec, PassiveHealthSpec

_log = logging.getLogger("gateway.upstreams")
_TRIAL_S: Final = 1.0
_MOST_DOUBLINGS: Final = 20
_TENTHS: Final = 10


class State(IntEnum):
    """What a target is, for metrics."""

    UP = 0
    EJECTED = 1
    DOWN = 2


class Tally:
    """What happened to all targets of a process, as plain counters."""

    __slots__ = ("checks_failed", "ejections", "refusals")

    def __init__(self) -> None:
        self.ejections = 0
        self.checks_failed = 0
        self.refusals = 0


class Health:
    """One target's. `shut_until` is 0 while it is not ejected, else the monotonic second of the next trial."""

    __slots__ = (
        "_active",
        "_bad",
        "_ejections",
        "_failures",
        "_good",
        "_is_tried",
        "_name",
        "_passive",
        "_statuses",
        "_tally",
        "is_down",
        "shut_until",
    )

    def __init__(
        self, name: str, passive: PassiveHealthSpec | None, active: ActiveHealthSpec | None, tally: Tally
    ) -> None:
        self._name = name
        self._passive = passive
        self._statuses = passive.failing_statuses if passive is not None else frozenset()
        self._active = active
        self._tally = tally
        self._failures = 0
        self._ejections = 0
        self._is_tried = False
        self._good = self._bad = 0
        self.shut_until = 0.0
        self.is_down = False

    @property
    def state(self) -> State:
        return State.DOWN if self.is_down else State.EJECTED if self.shut_until else State.UP

    @property
    def is_up(self) -> bool:
        return not self.is_down and not self.shut_until

    def may_be_tried(self, now: float) -> bool:
        """True if it is up, or its time is over."""
        return not self.is_down and now >= self.shut_until

    def admits(self, now: float) -> bool:
        """True if a request may be sent. Of an ejected target it is the trial: ask only in order to send one."""
        if self.is_down:
            return False
        if self.shut_until:
            if now < self.shut_until:
                return False
            self.shut_until = now + _TRIAL_S
            self._is_tried = True
        return True

    def wait_s(self, now: float) -> int:
        """In how many whole seconds it may be up again."""
        if self.is_down and self._active is not None:
            return ceil(self._active.interval_ms / 1000)
        return max(1, ceil(self.shut_until - now))

    # -- what comes of requests

    def answered(self, status: int, now: float) -> None:
        """It has begun to answer: a trial has succeeded, unless the answer is a failure itself."""
        if self._is_failure(status):
            self.failed(now)
        elif self.shut_until:
            self.shut_until, self._failures, self._is_tried = 0.0, 0, False
            _log.info("target %s is back", self._name)

    def completed(self, status: int, now: float) -> None:
        """It has answered whole."""
        if self._failures + self._ejections and not self.shut_until and not self._is_failure(status):
            self._failures = self._ejections = 0

    def failed(self, now: float) -> None:
        """It could not be reached, broke off, or was too slow."""
        passive = self._passive
        if passive is None:
            return
        if self.shut_until and not self._is_tried:
            return  # sent before it was ejected
        self._failures += 1
        if self._is_too_often(now) or self._is_tried or self._failures >= passive.failures:
            longer = passive.eject_ms << min(self._ejections, _MOST_DOUBLINGS)
            wait_s = min(longer, passive.max_eject_ms) / 1000
            self._ejections += 1
            self._is_tried = False
            self._tally.ejections += 1
            self.shut_until = now + wait_s
            _log.warning("target %s gets no requests for %.1f s: %d failures", self._name, wait_s, self._failures)

    def _is_too_often(self, now: float) -> bool:
        """One more failure; True if their share ejects it."""
        return False

    def _is_failure(self, status: int) -> bool:
        return status in self._statuses

    # -- what comes of checks

    def checked(self, *, is_good: bool) -> None:
        """A check has ended."""
        active = self._active
        assert active is not None
        if is_good:
            self._good, self._bad = self._good + 1, 0
            if self.is_down and self._good >= active.healthy:
                self.is_down = False
                _log.info("target %s is up: %d good checks", self._name, self._good)
        else:
            self._good, self._bad = 0, self._bad + 1
            self._tally.checks_failed += 1
            if not self.is_down and self._bad >= active.unhealthy:
                self.is_down = True
                _log.warning("target %s is down: %d bad checks", self._name, self._bad)


class Share:
    """How many of the last requests failed: counts for each tenth of a window."""

    __slots__ = ("_at", "_bad", "_good", "_tenth_s")

    def __init__(self, window_s: float) -> None:
        self._tenth_s = window_s / _TENTHS
        self._at = 0
        self.clear()

    def clear(self) -> None:
        self._good, self._bad = [0] * _TENTHS, [0] * _TENTHS

    def note(self, now: float, *, is_failure: bool) -> None:
        at = int(now / self._tenth_s)
        for passed in range(max(self._at + 1, at - _TENTHS + 1), at + 1):
            self._good[passed % _TENTHS] = self._bad[passed % _TENTHS] = 0
        self._at = max(self._at, at)
        counts = self._bad if is_failure else self._good
        counts[at % _TENTHS] += 1

    @property
    def requests(self) -> int:
        return sum(self._good) + sum(self._bad)

    def is_beyond(self, percent: int) -> bool:
        return sum(self._bad) * 100 >= percent * self.requests


class HealthByShare(Health):
    """A target's of whose requests a share may fail: one that fails every other time never fails often in a row.

    Its ejections are forgotten, so that the next is short again, when as many requests as decide have gone well enough.
    """

    __slots__ = ("_least", "_percent", "_share")

    def __init__(self, name: str, passive: PassiveHealthSpec, active: ActiveHealthSpec | None, tally: Tally) -> None:
        super().__init__(name, passive, active, tally)
        self._percent = passive.failure_percent or 100
        self._least = passive.min_requests
        self._share = Share(passive.window_ms / 1000)

    def completed(self, status: int, now: float) -> None:
        if self.shut_until or self._is_failure(status):
            return
        share = self._share
        share.note(now, is_failure=False)
        self._failures = 0
        if self._ejections and share.requests >= self._least and not share.is_beyond(self._percent):
            self._ejections = 0

    def _is_too_often(self, now: float) -> bool:
        share = self._share
        share.note(now, is_failure=True)
        if share.requests < self._least or not share.is_beyond(self._percent):
            return False
        share.clear()  # what it does when it is tried again is judged by itself
        return True


def health_of(
    name: str, passive: PassiveHealthSpec | None, active: ActiveHealthSpec | None, tally: Tally
) -> Health | None:
    """How a target is watched; None where it is not."""
    if passive is None and active is None:
        return None
    if passive is not None and passive.failure_percent is not None:
        return HealthByShare(name, passive, active, tally)
    return Health(name, passive, active, tally)
