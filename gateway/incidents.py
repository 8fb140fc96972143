"""What went wrong with upstreams, in the log: enough to act on, never enough to drown in.

At most `PER_SECOND` lines a second; the rest is counted and told in one line when the second is over. Writing a log line
blocks, so an upstream that fails ten thousand times a second must not cost ten thousand lines.
"""

from __future__ import annotations

import logging
from typing import Final

_log = logging.getLogger("gateway.upstream")

PER_SECOND: Final = 5


class Incidents:
    """Counts down the lines that may still be written this second; `tick` is called once a second."""

    __slots__ = ("_left", "_unsaid")

    def __init__(self) -> None:
        self._left = PER_SECOND
        self._unsaid = 0

    def note(self, code: str, detail: str, route: str, request_id: bytes) -> None:
        """One request that failed: the problem's code, what happened, on which route."""
        if not self._left:
            self._unsaid += 1
            return
        self._left -= 1
        _log.warning("%s: %s", code, detail, extra={"route": route, "request_id": request_id.decode()})

    def tick(self) -> None:
        """A second has passed."""
        if self._unsaid:
            _log.warning("%d more requests failed in the last second", self._unsaid)
        self._left, self._unsaid = PER_SECOND, 0
