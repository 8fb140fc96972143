"""Corrections: an event that should not count, or should count something else, gets a further row that says so.

Nothing that was stored is changed. A correction is an event of its own: at the time of the one it corrects, so that it
falls into the same hour, day, period and slot; with what has to be added to its meters, which may be negative; and with
who did it and why. It takes the way of all events into rollups and billing; what was told to Stripe already is netted
(ledger.billing.seal). The quota counter in Redis is not touched: what was used up to then was used up.

Callers run `correct` inside a transaction. Errors: NotCorrected, and those of the connection.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

from ledger import receipt, sql
from ledger.events import MAX_QUANTITY
from ledger.ids import uuid7
from ledger.ingest import INSERT_EVENTS

VOIDED: Final = "voided"
ADJUSTED: Final = "adjusted"
MAX_REASON: Final = 500

_SQL: Final = sql.load("ledger", "corrections.sql")
_INGEST: Final = sql.load("ledger", "ingest.sql")
_COLUMNS: Final = (
    "id", "at_ms", "project_id", "mode", "customer_id", "key_id", "route_id", "method", "status", "outcome", "meters",
    "duration_us", "upstream_us", "corrects", "actor", "reason",
)  # fmt: skip


class NotCorrected(ValueError):
    """What was asked cannot be. The message is public; `field` says which part of what was asked."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnknownEvent(NotCorrected):
    """There is no such event here."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What was added to an event, and what it counts now."""

    id: uuid.UUID
    kind: str
    added: Mapping[str, int]
    effective: Mapping[str, int]


def difference(current: Mapping[str, int], wanted: Mapping[str, Any] | None) -> dict[str, int]:
    """What has to be added to an event's meters so that they are `wanted`; None: nothing counts. Pure.

    Meters that `wanted` does not name stay. Raises NotCorrected for what is no quantity, and where nothing changes.
    """
    if wanted is None:
        added = {meter: -quantity for meter, quantity in current.items() if quantity}
    else:
        for meter, quantity in wanted.items():
            if meter not in current:
                raise NotCorrected(
                    "meters", f"the event has no meter {meter!r:.80}; it has {', '.join(sorted(current))}"
                )
            if type(quantity) is not int or not 0 <= quantity <= MAX_QUANTITY:
                raise NotCorrected(
                    f"meters.{meter}", f"expected an integer from 0 to {MAX_QUANTITY}, got {quantity!r:.40}"
                )
        added = {meter: quantity - current[meter] for meter, quantity in wanted.items() if quantity != current[meter]}
    if not added:
        raise NotCorrected("meters", "nothing changes: the event counts just that already")
    return added


async def correct(
    connection: asyncpg.Connection,
    project_id: str,
    mode: str,
    event_id: uuid.UUID,
    wanted: Mapping[str, Any] | None,
    *,
    actor: str,
    reason: str,
) -> Correction:
    """Void an event (`wanted` None), or adjust some of its meters to new quantities. Raises NotCorrected."""
    if not reason.strip() or len(reason) > MAX_REASON or "\0" in reason:
        raise NotCorrected("reason", f"expected 1 to {MAX_REASON} characters that say why")
    await connection.execute(_SQL["lock"], event_id.hex)
    event = await receipt.find(connection, project_id, mode, event_id)
    if event is None:
        raise UnknownEvent("id", f"there is no event {event_id} here; its month may be archived")
    if event["corrects"] is not None:
        raise NotCorrected("id", f"this is a correction; correct the event itself, {event['corrects']}")
    current: dict[str, int] = orjson.loads(event["meters_text"])
    for one in await receipt.corrections(connection, event):
        for meter, quantity in one["meters"].items():
            current[meter] = current.get(meter, 0) + quantity
    added = difference(current, wanted)
    at_ms = round(event["at"].timestamp() * 1000)
    correction_id = uuid7(at_ms)  # made when the event was, as far as finding it goes
    kind = VOIDED if wanted is None else ADJUSTED
    row = (
        correction_id, at_ms, project_id, mode, event["customer_id"], event["key_id"], event["route_id"], event["method"],
        event["status"], kind, orjson.dumps(added).decode(), 0, 0, event_id, actor[:256], reason,
    )  # fmt: skip
    await connection.execute(_SQL["lock_billing"])
    await connection.execute(_INGEST["staging"])
    await connection.copy_records_to_table("usage_staging", records=[row], columns=_COLUMNS)
    await connection.fetchval(INSERT_EVENTS)
    return Correction(correction_id, kind, added, {m: current[m] + added.get(m, 0) for m in current})
