"""Usage events as gateways make them: fifty customers, a key each, three meters each; in order of time but for a second."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final

from tests.ledger.facts import fact

PROJECT: Final = "prj_acme"
MODE: Final = "live"
CUSTOMERS: Final = 50
PER_MS: Final = 50
"""So many are admitted in a millisecond."""
_JITTER_MS: Final = 1_000
"""Requests end in another order than they began; an event tells when its request began."""


def customer(number: int) -> str:
    return f"cus_{number:026d}"


def facts(seed: int, most: int, began_ms: int, who: str | None = None) -> Iterator[dict[str, Any]]:
    """The first `most` from `began_ms` (Unix ms) on, of all customers or of `who`."""
    choose = random.Random(seed)
    for number in range(most):
        owner = choose.randrange(CUSTOMERS)
        yield fact(
            began_ms + number // PER_MS - choose.randrange(_JITTER_MS),
            customer=who or customer(owner),
            key=f"key_{owner:026d}",
            route=f"rte_{1:026d}",
            meters={"requests": 1, "bytes_in": 120, "bytes_out": 1024},
        )
