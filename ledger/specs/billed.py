"""Which meters of a project are billed, and as what."""

from __future__ import annotations

from typing import Any

from ledger.keys import Mode
from ledger.spec_types import Spec
from ledger.specs.text import EventName, MeterName, Modes


class BilledMeterSpec(Spec):
    """A meter whose usage is told to Stripe from when it is declared on. `event_name` None is the meter's own name."""

    meter: MeterName
    event_name: EventName | None = None
    modes: Modes = (Mode.TEST, Mode.LIVE)


def bare_meter(given: Any) -> Any:
    """`requests` is short for {meter: requests}."""
    return {"meter": given} if isinstance(given, str) else given
