"""What is billed through Stripe: which halves of projects, which of their customers, and which meters from when on.

A meter is billed from a moment on, also one in the past: usage since then is taken over in the same transaction. The
moment cannot be changed afterwards, as what it covers may have been sent; ending and renaming are possible any time.
Callers run these inside a transaction. Errors are NotBilled, and those of the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import orjson

from ledger import sql

OLDEST: Final = timedelta(days=34)
"""Stripe takes meter events of the past 35 days; a day is left for sending them."""

_SQL: Final = sql.load("ledger.billing", "billed.sql")


class NotBilled(ValueError):
    """What was asked cannot be. The message is public."""


@dataclass(frozen=True, slots=True)
class BilledMeter:
    """Usage of `meter` admitted in [since, until) is told to Stripe as `event_name`; `until` None is for ever."""

    meter: str
    event_name: str
    since: datetime
    until: datetime | None


async def alone(connection: asyncpg.Connection) -> None:
    """Hold up ingest until this transaction ends. For whoever changes what ingest may wait for, too: before all of it."""
    await connection.execute(_SQL["lock"])


async def connect_stripe(connection: asyncpg.Connection, project_id: str, mode: str, account: str | None) -> None:
    """Bill this half of a project through Stripe: with a connected account (acct_…), or None for the platform's own."""
    await connection.execute(_SQL["connect"], project_id, mode, account)


async def disconnect_stripe(connection: asyncpg.Connection, project_id: str, mode: str) -> None:
    """Send nothing more. What is sealed stays due, for when it is connected again."""
    await connection.execute(_SQL["disconnect"], project_id, mode)


async def link_customer(
    connection: asyncpg.Connection, project_id: str, mode: str, customer_id: str, stripe_customer_id: str
) -> None:
    """Say which Stripe customer (cus_…) ours is. What was used before the link, within 35 days, is sent too."""
    await connection.execute(_SQL["link"], project_id, mode, customer_id, stripe_customer_id)


async def bill_meter(
    connection: asyncpg.Connection, project_id: str, mode: str, meter: str, event_name: str, since: datetime
) -> BilledMeter:
    """Bill a meter from `since` on; where it is billed already, only the event name changes. Raises NotBilled."""
    if since < datetime.now(UTC) - OLDEST:
        raise NotBilled(f"since: Stripe takes usage of the past 35 days; the earliest is {OLDEST.days} days ago")
    await connection.execute(_SQL["lock"])
    added = await connection.fetchval(_SQL["bill"], project_id, mode, meter, event_name, since)
    if added is None:
        row = await connection.fetchrow(_SQL["rename"], project_id, mode, meter, event_name)
        assert row is not None
        return BilledMeter(meter, event_name, row["since"], _end(row["until"]))
    await connection.execute(_SQL["backfill"], project_id, mode, meter, since)
    return BilledMeter(meter, event_name, since, None)


async def stop_billing(
    connection: asyncpg.Connection, project_id: str, mode: str, meter: str, until: datetime
) -> datetime:
    """Stop billing a meter for usage from `until` on, which lies in the future. Raises NotBilled."""
    if until < datetime.now(UTC):
        raise NotBilled("until: lies in the past; what was used is billed")
    await connection.execute(_SQL["lock"])
    ended: datetime | None = await connection.fetchval(_SQL["stop"], project_id, mode, meter, until)
    if ended is None:
        raise NotBilled(f"{meter!r} is not billed")
    return ended


async def billed_meters(connection: asyncpg.Connection, project_id: str, mode: str) -> list[BilledMeter]:
    """All billed meters of one half of a project, by name."""
    rows = await connection.fetch(_SQL["list"], project_id, mode)
    return [BilledMeter(row["meter"], row["event_name"], row["since"], _end(row["until"])) for row in rows]


async def status(connection: asyncpg.Connection, project_id: str, mode: str) -> dict[str, Any]:
    """How billing stands, as JSON: what is connected and billed, entries by state, what is not sealed yet."""
    row = await connection.fetchrow(_SQL["status"], project_id, mode)
    assert row is not None
    connected = orjson.loads(row["connected"]) if row["connected"] else None
    meters = await billed_meters(connection, project_id, mode)
    return {
        "is_connected": connected is not None,
        "account": (connected["account"] or "platform") if connected else None,
        "meters": [
            {
                "meter": one.meter,
                "event_name": one.event_name,
                "since": one.since.isoformat(),
                "until": None if one.until is None else one.until.isoformat(),
            }
            for one in meters
        ],
        "entries": orjson.loads(row["entries"]),
        "pending_slots": row["pending_slots"],
        "pending_units": int(row["pending_units"]),
        "unlinked_customers": row["unlinked"],
    }


def _end(until: datetime) -> datetime | None:
    return None if until.year > 9000 else until
