"""The time it is for a fake: real time moved by an offset, or standing still."""

from __future__ import annotations

import time


class Clock:
    """`now` in Unix seconds. Never goes back unless it is set back."""

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._frozen_at: float | None = None

    @property
    def now(self) -> int:
        return int(self.exact)

    @property
    def exact(self) -> float:
        return time.time() + self._offset_s if self._frozen_at is None else self._frozen_at

    def set(self, now: float, *, is_frozen: bool) -> None:
        """From here on it is `now`; it goes on from there, or stands still."""
        self._frozen_at = now if is_frozen else None
        self._offset_s = now - time.time()

    def advance(self, seconds: float) -> None:
        """Move it."""
        if self._frozen_at is not None:
            self._frozen_at += seconds
        self._offset_s += seconds
