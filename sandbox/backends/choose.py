"""Which backend this machine gets: the first that starts and passes its self-test, in order of preference.

There is no unsafe fallback. Where none passes, the reasons are all that comes back, each saying what to install.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sandbox.backends.base import Backend, Unavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend, or None; and for each one looked at, why it was taken or not."""

    backend: Backend | None
    reasons: Mapping[str, str]

    @property
    def why_not(self) -> str:
        """For people, where there is none."""
        return " ".join(f"{name}: {reason}." for name, reason in self.reasons.items())


async def choose(candidates: Mapping[str, Callable[[], Backend]]) -> Choice:
    """Start the first that can be; the others are not touched."""
    reasons: dict[str, str] = {}
    for name, make in candidates.items():
        backend = make()
        try:
            await backend.start()
        except Unavailable as error:
            reasons[name] = str(error)
            log.warning("backend %s cannot be used: %s", name, error)
            continue
        reasons[name] = "passed its self-test"
        log.info("code runs in backend %s", name)
        return Choice(backend, reasons)
    return Choice(None, reasons)
