"""Sealing: amounts of slots that are over become entries, which never change again. `plan` decides, `seal` does it.

A slot is left open for a while after its hour (GRACE), so that nearly always one entry tells all of it. What arrives
later is pending again and becomes the slot's next entry. Identifiers follow from the slot and the entry's sequence, so
whoever makes an entry, and however often, it is the same one to Stripe.

Stripe takes no negative values. Where a correction has made a slot's truth less than what was sealed of it, that credit
is netted against the next amounts of the same customer, meter and billing period: an entry of quantity -n and value 0
for the slot that was corrected, and n less in the value of the entry it is netted into. A credit that finds nothing to
be netted against before its period is invoiced stays open, and reconciliation reports it (docs/adr).

Several workers may seal at once: they lock slots, and skip what another one has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Final, NamedTuple

import asyncpg

from ledger import sql

GRACE: Final = timedelta(minutes=5)
BATCH: Final = 500
MAX_VALUE: Final = 10**15 - 1
"""Stripe's values have at most 15 digits."""
TOO_OLD: Final = timedelta(days=35)
"""What Stripe takes no more."""

_SQL: Final = sql.load("ledger.billing", "seal.sql")


class Slot(NamedTuple):
    """The name of one customer, meter and hour (or part of it)."""

    project_id: str
    mode: str
    customer_id: str
    meter: str
    starts_at: datetime


class Group(NamedTuple):
    """Within which credits are netted: a customer, a meter and a billing period."""

    project_id: str
    mode: str
    customer_id: str
    meter: str
    period: datetime


@dataclass(frozen=True, slots=True)
class Pending:
    """What a slot's truth and its entries differ by, never zero. `entries` is the number of those it has."""

    slot: Slot
    period: datetime
    amount: int
    entries: int
    event_name: str
    is_unreachable: bool = False
    """Nobody was found to bill it to, and it is too late now."""

    @property
    def group(self) -> Group:
        return Group(*self.slot[:4], self.period)


@dataclass(frozen=True, slots=True)
class Entry:
    """A part of a slot's amount: `quantity` of the ledger's truth, told to Stripe as `value`."""

    slot: Slot
    sequence: int
    quantity: int
    value: int
    state: str
    reason: str | None
    netted_into: str | None
    event_name: str

    @property
    def identifier(self) -> str:
        return identifier_of(self.slot, self.sequence)


def identifier_of(slot: Slot, sequence: int) -> str:
    """The identifier that Stripe knows an entry by: at most 100 characters, and the same whoever works it out."""
    named = "\0".join((*slot[:4], str(int(slot.starts_at.timestamp())), str(sequence)))
    return f"tollgate_{sha256(named.encode()).hexdigest()[:48]}"


def plan(amounts: Iterable[Pending], credits_: Iterable[Pending]) -> list[Entry]:
    """Entries for positive amounts, netted against the credits (negative amounts) of the same group. Pure.

    Afterwards per slot the quantities add up to its amount, and per group the values to the quantities, except for
    credits that exceed the amounts: of those, only the part that was netted has entries.
    """
    made: list[Entry] = []
    owed: dict[Group, list[Pending]] = {}
    left: dict[Slot, int] = {}
    sequences: dict[Slot, int] = {}

    def add(
        of: Pending,
        quantity: int,
        value: int,
        state: str,
        name: str,
        reason: str | None = None,
        into: str | None = None,
    ) -> None:
        sequence = sequences.setdefault(of.slot, of.entries)
        sequences[of.slot] += 1
        made.append(Entry(of.slot, sequence, quantity, value, state, reason, into, name))

    for credit in sorted(credits_, key=lambda p: p.slot):
        owed.setdefault(credit.group, []).append(credit)
        left[credit.slot] = -credit.amount
    for pending in sorted(amounts, key=lambda p: p.slot):
        name = pending.event_name
        if pending.is_unreachable:
            add(pending, pending.amount, 0, "waived", name, "no_stripe_customer")
            continue
        rest = pending.amount
        while rest:
            quantity = value = min(rest, MAX_VALUE)
            rest -= quantity
            into = identifier_of(pending.slot, sequences.get(pending.slot, pending.entries))
            for credit in owed.get(pending.group, ()):
                taken = min(left[credit.slot], value)
                if taken:
                    left[credit.slot] -= taken
                    value -= taken
                    add(credit, -taken, 0, "netted", name, "credit", into)
            add(pending, quantity, value, "due" if value else "netted", name, None if value else "credit")
    return made


async def seal(connection: asyncpg.Connection, now: datetime, *, grace: timedelta = GRACE, limit: int = BATCH) -> int:
    """Seal what is due, at most `limit` slots, in one transaction; returns how many slots were."""
    async with connection.transaction():
        rows = await connection.fetch(_SQL["pending"], now, limit, grace, now - TOO_OLD)
        amounts = [_pending(row, row["event_name"], is_unreachable=row["is_unreachable"]) for row in rows]
        if not amounts:
            return 0
        groups = {pending.group: pending.event_name for pending in amounts}
        found = await connection.fetch(_SQL["credits"], *_columns(groups))
        credits_ = [_pending(row, "") for row in found]
        await _write(connection, plan(amounts, credits_), now)
        return len(amounts)


async def _write(connection: asyncpg.Connection, entries: Sequence[Entry], now: datetime) -> None:
    slots = _columns(entry.slot for entry in entries)
    quantities = [Decimal(entry.quantity) for entry in entries]
    await connection.execute(
        _SQL["insert_entries"],
        *slots,
        [entry.sequence for entry in entries],
        [entry.identifier for entry in entries],
        quantities,
        [Decimal(entry.value) for entry in entries],
        [entry.state for entry in entries],
        [entry.reason for entry in entries],
        [entry.netted_into for entry in entries],
        [entry.event_name for entry in entries],
        now,
    )
    await connection.execute(_SQL["mark_sealed"], *slots, quantities)


def _pending(row: asyncpg.Record, event_name: str, *, is_unreachable: bool = False) -> Pending:
    slot = Slot(row["project_id"], row["mode"], row["customer_id"], row["meter"], row["starts_at"])
    return Pending(slot, row["period"], int(row["pending"]), row["entries"], event_name, is_unreachable)


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
