"""Instant endpoints as they are stored: functions with a URL, and their last 100 calls."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import orjson
import zstandard

from sandbox.store.database import Database, Unavailable, statements
from sandbox.store.runs import Owner

_SQL: Final = statements("endpoints.sql")
MOST_PER_PROJECT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A saved function. `definition` is what POST /api/run would take; `customer` "" is the project's own."""

    id: str
    customer: str
    is_public: bool
    name: str
    definition: dict[str, Any]
    revision: int
    created_at: datetime
    updated_at: datetime


def _endpoint(row: asyncpg.Record) -> Endpoint:
    definition = orjson.loads(zstandard.ZstdDecompressor().decompress(row["definition"]))
    return Endpoint(
        row["id"],
        row["customer"],
        row["is_public"],
        row["name"],
        definition,
        row["revision"],
        row["created_at"],
        row["updated_at"],
    )


def _packed(definition: dict[str, Any]) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(orjson.dumps(definition))


class Endpoints:
    """All methods raise Unavailable while PostgreSQL cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, owner: Owner, name: str, is_public: bool, definition: dict[str, Any]) -> Endpoint | None:
        """Save a new one; None if the project has as many as it may."""
        made = f"fn_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
        customer = "" if owner.sees_all else owner.customer
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                _SQL["add"],
                *(made, owner.project, owner.mode, customer, is_public, name, _packed(definition)),
                MOST_PER_PROJECT,
            )
        return _endpoint(row) if row is not None else None

    async def find(self, endpoint: str, owner: Owner) -> Endpoint | None:
        """One that the owner may change."""
        found = await self._find(endpoint, owner)
        return found if found is not None and owner.may_see(found.customer) else None

    async def callable_by(self, endpoint: str, owner: Owner) -> Endpoint | None:
        """One that the owner may call: its own, the project's, or all for the project's keys."""
        found = await self._find(endpoint, owner)
        if found is None or not (found.customer == "" or owner.may_see(found.customer)):
            return None
        return found

    async def public(self, endpoint: str, project: str) -> tuple[Endpoint, str] | None:
        """One that anybody may call, and its mode."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_SQL["find_public"], endpoint, project)
        return (_endpoint(row), row["mode"]) if row is not None else None

    async def page(self, owner: Owner, limit: int, before: str) -> list[Endpoint]:
        """The newest before an id ("" for the very newest)."""
        if not owner.sees_all and not owner.customer:
            return []
        customer = "" if owner.sees_all else owner.customer
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SQL["page"], owner.project, owner.mode, customer, before, limit)
        return [_endpoint(row) for row in rows]

    async def change(
        self, endpoint: str, owner: Owner, name: str, is_public: bool, definition: dict[str, Any]
    ) -> Endpoint | None:
        """Replace what an endpoint is; its URL stays."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                _SQL["change"], endpoint, owner.project, owner.mode, is_public, name, _packed(definition)
            )
        return _endpoint(row) if row is not None else None

    async def remove(self, endpoint: str, owner: Owner) -> None:
        """Delete it with its log."""
        async with self._database.connection() as connection:
            await connection.execute(_SQL["remove"], endpoint, owner.project, owner.mode)

    async def log(self, endpoint: str, run: str, method: str, path: str, status: int, duration_ms: int) -> None:
        """Note a call. Never raises: a log is not worth an answer."""
        try:
            async with self._database.connection() as connection:
                at = datetime.now(UTC)
                await connection.execute(_SQL["log"], endpoint, run, at, method, path[:500], status, duration_ms)
                if secrets.randbelow(20) == 0:
                    await connection.execute(_SQL["trim"], endpoint)
        except Unavailable:
            pass

    async def calls(self, endpoint: str) -> list[dict[str, Any]]:
        """The last 100, newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SQL["calls"], endpoint)
        return [
            {
                "run": row["run"],
                "at": row["at"].isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "method": row["method"],
                "path": row["path"],
                "status": row["status"],
                "durationMs": row["duration_ms"],
            }
            for row in rows
        ]

    async def _find(self, endpoint: str, owner: Owner) -> Endpoint | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_SQL["find"], endpoint, owner.project, owner.mode)
        return _endpoint(row) if row is not None else None
