"""Saying that something happened, in the transaction in which it does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import orjson

from ledger import ids, sql

TYPES: Final = (
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "key.created",
    "key.rotated",
    "key.revoked",
    "quota.reached",
    "spend_cap.reached",
    "tier.created",
    "tier.updated",
    "tier.deleted",
    "test.sent",
)
"""All that an endpoint may ask for; test.sent is sent on demand."""

_SQL = sql.load("ledger.webhooks", "webhooks.sql")


async def emit(connection: asyncpg.Connection, project_id: str, mode: str, type_: str, data: dict[str, Any]) -> None:
    """Queue an event for every endpoint of that half of the project that wants its type."""
    body = {
        "type": type_,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "mode": mode,
        "data": data,
    }
    text = orjson.dumps(body).decode()
    await connection.execute(_SQL["emit"], project_id, mode, ids.new_id("message"), type_, text)
