"""The receipt of one event: its whole way, from admission to Stripe, as far as it has come.

An event is found by its id alone: it holds the moment it was made, which is within a day of its admission (ingest sees
to that), and nearly always the same millisecond. Errors are those of the connection.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import orjson

from ledger import sql
from ledger.ids import unix_ms_of

_NEAR: Final = (timedelta(0), timedelta(seconds=5), timedelta(days=1))
_SQL: Final = sql.load("ledger", "receipt.sql")


async def find(
    connection: asyncpg.Connection, project_id: str, mode: str, event_id: uuid.UUID
) -> Mapping[str, Any] | None:
    """The row of an event of this half; None if there is none (any more: its month may be archived)."""
    made_ms = unix_ms_of(event_id)
    if not 0 < made_ms < 253_000_000_000_000:
        return None
    made = datetime.fromtimestamp(made_ms // 1000, UTC) + timedelta(milliseconds=made_ms % 1000)
    for near in _NEAR:
        row: Any = await connection.fetchrow(_SQL["event"], project_id, mode, made - near, made + near, event_id)
        if row is not None:
            return dict(row)
    return None


async def corrections(connection: asyncpg.Connection, event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The corrections of an event, oldest first; `meters` is what each added."""
    rows = await connection.fetch(_SQL["corrections"], event["project_id"], event["at"], event["id"])
    return [{**dict(row), "meters": orjson.loads(row["meters"])} for row in rows]


async def receipt(
    connection: asyncpg.Connection, project_id: str, mode: str, event_id: uuid.UUID
) -> dict[str, Any] | None:
    """All that is known of an event, as JSON; None if there is none of that id here."""
    event = await find(connection, project_id, mode, event_id)
    if event is None:
        return None
    meters: dict[str, int] = orjson.loads(event["meters_text"])
    corrected = await corrections(connection, event)
    effective = dict(meters)
    for one in corrected:
        for meter, quantity in one["meters"].items():
            effective[meter] = effective.get(meter, 0) + quantity
    names = list(effective)
    rollups = await connection.fetch(
        _SQL["rollups"],
        project_id,
        mode,
        event["at"],
        event["customer_id"] or "",
        event["key_id"] or "",
        event["route_id"] or "",
        names,
    )
    billed = await _billed(connection, event, names) if event["customer_id"] else []
    settled = event["at"] + timedelta(microseconds=event["duration_us"])
    return {
        "id": str(event_id),
        "admitted": {
            "at": _iso(event["at"]),
            "project": project_id,
            "mode": mode,
            "customer": event["customer_id"],
            "key": event["key_id"],
            "route": event["route_id"],
            "method": event["method"],
        },
        "settled": {
            "at": _iso(settled),
            "outcome": event["outcome"],
            "status": event["status"],
            "durationUs": event["duration_us"],
            "upstreamUs": event["upstream_us"],
            "meters": meters,
            "notes": None if event["notes_text"] is None else orjson.loads(event["notes_text"]),
        },
        "stored": {
            "at": _iso(event["stored_at"]),
            "corrects": None if event["corrects"] is None else str(event["corrects"]),
            "actor": event["actor"],
            "reason": event["reason"],
        },
        "corrections": [
            {
                "id": str(one["id"]),
                "kind": one["outcome"],
                "at": _iso(one["stored_at"]),
                "actor": one["actor"],
                "reason": one["reason"],
                "meters": one["meters"],
            }
            for one in corrected
        ],
        "effective": effective,
        "rolledUp": [
            {
                "span": row["span"],
                "start": _iso(row["start"]),
                "meter": row["meter"],
                "quantity": int(row["quantity"]),
                "events": row["events"],
            }
            for row in rollups
        ],
        "billed": billed,
    }


async def _billed(connection: asyncpg.Connection, event: Mapping[str, Any], meters: list[str]) -> list[dict[str, Any]]:
    half = (event["project_id"], event["mode"], event["customer_id"])
    slots = [row for row in await connection.fetch(_SQL["slots"], *half, event["at"]) if row["meter"] in meters]
    entries = await connection.fetch(
        _SQL["entries"], *half, [slot["starts_at"] for slot in slots], [slot["meter"] for slot in slots]
    )
    return [
        {
            "meter": slot["meter"],
            "slot": {
                "start": _iso(slot["starts_at"]),
                "end": _iso(slot["ends_at"]),
                "counted": int(slot["counted"]),
                "sealed": int(slot["sealed"]),
            },
            "sent": [
                {
                    "identifier": entry["identifier"],
                    "sequence": entry["sequence"],
                    "quantity": int(entry["quantity"]),
                    "value": int(entry["value"]),
                    "state": entry["state"],
                    "reason": entry["reason"],
                    "attempts": entry["attempts"],
                    "lastError": entry["last_error"],
                    "sealedAt": _iso(entry["created_at"]),
                    "sentAt": None if entry["sent_at"] is None else _iso(entry["sent_at"]),
                }
                for entry in entries
                if entry["meter"] == slot["meter"]
            ],
            "seenByStripe": None
            if slot["seen_at"] is None
            else {
                "at": _iso(slot["seen_at"]),
                "hourUnits": int(slot["seen_units"]),
                "toldUnits": int(slot["told_units"]),
                "agrees": slot["seen_units"] == slot["told_units"],
            },
        }
        for slot in slots
    ]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
