"""The proof that nothing was lost or doubled between the events and what Stripe is told: queries that must find nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger import sql
from ledger.usage import Fetches

CHECKS: Final = ("slots_and_events", "slots_and_entries", "values_and_quantities")

_SQL: Final = sql.load("ledger.billing", "proof.sql")


@dataclass(frozen=True, slots=True)
class Flaw:
    """Where two books disagree about one customer, meter and hour."""

    check: str
    project_id: str
    mode: str
    customer_id: str
    meter: str
    hour: datetime
    expected: int
    found: int


async def flaws(connection: Fetches, start: datetime, end: datetime) -> list[Flaw]:
    """What is wrong between `start` and `end`. Run it in one snapshot (repeatable read) beside working writers."""
    return [
        Flaw(
            check,
            row["project_id"],
            row["mode"],
            row["customer_id"],
            row["meter"],
            row["hour"],
            int(row["expected"]),
            int(row["found"]),
        )
        for check in CHECKS
        for row in await connection.fetch(_SQL[check], start, end)
    ]
