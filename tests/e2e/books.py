"""What the product recorded, read from its PostgreSQL and Redis as an auditor would: past all of its own code.

`balanced` waits until nothing is under way any more (no open reservation, nothing on a stream); what is read after it
is final. Every wait has a deadline and says what was still open.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import redis.asyncio

from ledger import names
from tests.e2e.stack import Stack

_SHARDS: Final = range(16)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of usage_events."""

    id: str
    method: str
    status: int
    outcome: str
    meters: dict[str, int]
    route: str | None


class Books:
    """Read access to one stack's records. Customers are named by their external id."""

    def __init__(self, postgres: asyncpg.Connection, store: redis.asyncio.Redis) -> None:
        self.postgres = postgres
        self.redis = store

    async def balanced(self, deadline_s: float = 20.0) -> None:
        """Wait until every reservation is resolved and every entry stored. AssertionError past the deadline."""
        give_up = time.monotonic() + deadline_s
        while open_items := await self._open_items():
            assert time.monotonic() < give_up, f"still open after {deadline_s} s: {open_items}"
            await asyncio.sleep(0.02)

    async def _open_items(self) -> dict[str, int]:
        counts = {}
        for shard in _SHARDS:
            counts[names.reservations(shard)] = await self.redis.hlen(names.reservations(shard))
            counts[names.usage_stream(shard)] = await self.redis.xlen(names.usage_stream(shard))
        return {name: count for name, count in counts.items() if count}

    async def events(self, customer: str) -> list[Event]:
        """All that was recorded for a customer so far, oldest first."""
        rows = await self.postgres.fetch(
            "SELECT e.id, e.method, e.status, e.outcome, e.meters, r.name AS route FROM usage_events e"
            " JOIN customers c ON c.id = e.customer_id LEFT JOIN routes r ON r.id = e.route_id"
            " WHERE c.external_id = $1 ORDER BY e.at, e.id",
            customer,
        )
        return [
            Event(str(r["id"]), r["method"], r["status"], r["outcome"], json.loads(r["meters"]), r["route"])
            for r in rows
        ]

    async def only_event(self, customer: str, deadline_s: float = 20.0) -> Event:
        """The one event of a customer, when all is settled; AssertionError if there is none or there are more."""
        await self.balanced(deadline_s)
        events = await self.events(customer)
        assert len(events) == 1, f"expected one event for {customer}, found {events}"
        return events[0]

    async def totals(self, customer: str, meter: str = "requests") -> tuple[int, int, int]:
        """(events in the ledger, their sum of the meter, the hourly rollup's sum) for a customer."""
        row = await self.postgres.fetchrow(
            "SELECT count(*) AS events, coalesce(sum((e.meters ->> $2)::bigint), 0) AS quantity,"
            " (SELECT coalesce(sum(h.quantity), 0) FROM usage_hourly h JOIN customers c ON c.id = h.customer_id"
            "   WHERE c.external_id = $1 AND h.meter = $2) AS rolled_up"
            " FROM usage_events e JOIN customers c ON c.id = e.customer_id WHERE c.external_id = $1",
            customer,
            meter,
        )
        assert row is not None
        return int(row["events"]), int(row["quantity"]), int(row["rolled_up"])

    async def forget_reservations(self) -> None:
        """Clear up after a test that left some open, so that others can see theirs resolved."""
        for shard in _SHARDS:
            await self.redis.delete(names.reservations(shard))

    async def stream_entries(self) -> list[tuple[str, dict[Any, Any]]]:
        """All entries now on all streams, as (stream, fields)."""
        entries: list[tuple[str, dict[Any, Any]]] = []
        for shard in _SHARDS:
            stream = names.usage_stream(shard)
            entries += [(stream, fields or {}) for _, fields in await self.redis.xrange(stream) or ()]
        return entries


@asynccontextmanager
async def open_books(stack: Stack) -> AsyncIterator[Books]:
    """Books on a stack, closed afterwards."""
    postgres = await asyncpg.connect(stack.postgres_url)
    store = redis.asyncio.from_url(stack.redis_url)
    try:
        yield Books(postgres, store)
    finally:
        await store.aclose()
        await postgres.close()
