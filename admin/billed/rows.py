"""Billed meters as a declaration has them: compared with what is billed, and brought about.

A meter that is declared is billed from now on; one that is billed already keeps the moment it is billed from. Errors are
those of the connection, and Refused for a meter whose billing has ended: what it was billed for stays as it was told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from admin.changes import Action, Change, Fields, Refused, record
from admin.nouns import Scope
from ledger.billing import billed
from ledger.specs import BilledMeterSpec

NOUN: Final = "billed_meter"
_SOON: Final = timedelta(seconds=1)
"""Billing ends in the future: what was used until then is billed."""


async def in_force(connection: asyncpg.Connection, scope: Scope) -> dict[str, billed.BilledMeter]:
    """What is billed without a known end, by meter."""
    found = await billed.billed_meters(connection, scope.project_id, scope.mode)
    return {one.meter: one for one in found if one.until is None}


async def put(
    connection: asyncpg.Connection, scope: Scope, declared: Sequence[tuple[int, BilledMeterSpec]], *, actor: str
) -> list[Change]:
    """Bill what is declared; each entry comes with its index, which a refusal leads to."""
    half = scope.project_id, scope.mode
    changes, current = [], {one.meter: one for one in await billed.billed_meters(connection, *half)}
    for index, spec in declared:
        name, before = spec.event_name or spec.meter, current.get(spec.meter)
        if before is not None and before.until is not None:
            raise Refused(
                f"{spec.meter} is not billed after {before.until:%Y-%m-%d %H:%M}; that is for good", index, "meter"
            )
        if before is not None and before.event_name == name:
            continue
        await billed.bill_meter(connection, *half, spec.meter, name, datetime.now(UTC))
        action = Action.CREATED if before is None else Action.UPDATED
        was: Fields | None = None if before is None else {"event_name": before.event_name}
        changes.append(await _note(connection, scope, action, spec.meter, was, {"event_name": name}, actor))
    return changes


async def prune(
    connection: asyncpg.Connection, scope: Scope, declared: Sequence[BilledMeterSpec], *, actor: str
) -> list[Change]:
    """Stop billing what is not declared, as of a second from now."""
    changes, kept = [], {spec.meter for spec in declared}
    for meter, one in (await in_force(connection, scope)).items():
        if meter not in kept:
            await billed.stop_billing(connection, scope.project_id, scope.mode, meter, datetime.now(UTC) + _SOON)
            was = {"event_name": one.event_name}
            changes.append(await _note(connection, scope, Action.DELETED, meter, was, None, actor))
    return changes


async def _note(
    connection: asyncpg.Connection,
    scope: Scope,
    action: Action,
    meter: str,
    before: Fields | None,
    after: Fields | None,
    actor: str,
) -> Change:
    return await record(
        connection, Change(action, NOUN, meter, meter, scope.project_id, scope.mode, before, after), actor=actor
    )
