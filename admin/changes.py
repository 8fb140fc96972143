"""A change: what was done to one object, for the person who asked, and for the audit log.

`before` and `after` are the object's fields as JSON; they never hold a key's text or hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import asyncpg
import orjson

from ledger import sql
from ledger.webhooks.emit import TYPES, emit

_SQL = sql.load("admin", "changes.sql")
Path = tuple[str | int, ...]
Fields = dict[str, Any]


class Action(StrEnum):
    """What was done."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    REVOKED = "revoked"
    ROTATED = "rotated"


class Refused(Exception):
    """What was asked conflicts with what exists. The message is public; `path` says which field, () for the whole."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.path: Path = path


class Unfit(Refused):
    """A value that is well-formed and cannot be used: it names what is not there, or lies in the past."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing done to one object. `mode` is None for what serves both halves of a project."""

    action: Action
    noun: str
    name: str
    object_id: str
    project_id: str
    mode: str | None
    before: Fields | None
    after: Fields | None

    @property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """What an update changed: field → (before, after)."""
        before, after = self.before or {}, self.after or {}
        return {
            name: (before.get(name), after.get(name))
            for name in {**before, **after}
            if orjson.dumps(before.get(name)) != orjson.dumps(after.get(name))  # Python's True equals 1
        }


@dataclass(frozen=True, slots=True)
class Recorded:
    """A change as the audit log has it."""

    id: str
    at: datetime
    actor: str
    action: str
    noun: str
    object_id: str
    before: Fields | None
    after: Fields | None


async def recorded(
    connection: asyncpg.Connection, project_id: str, before: str | None, limit: int | None
) -> list[Recorded]:
    """At most `limit` changes of a project (None: all) below the id `before`, the newest first."""
    below = None if before is None else int(before.partition("_")[2]) if before.partition("_")[2].isdecimal() else 0
    rows = await connection.fetch(_SQL["recorded"], project_id, below, limit)
    return [
        Recorded(
            **{
                **row,
                "id": f"aud_{row['id']}",
                "before": None if row["before"] is None else orjson.loads(row["before"]),
                "after": None if row["after"] is None else orjson.loads(row["after"]),
            }
        )
        for row in rows
    ]


async def record(connection: asyncpg.Connection, change: Change, *, actor: str) -> Change:
    """Write the audit row of a change and tell who listens, in the transaction of the change; returns the change."""
    await connection.execute(
        _SQL["record"],
        change.project_id,
        actor,
        change.action,
        change.noun,
        change.object_id,
        _json(change.mode, change.before),
        _json(change.mode, change.after),
    )
    if change.mode is not None and (type_ := f"{change.noun}.{change.action}") in TYPES:
        data = {"id": change.object_id, **(change.after or change.before or {})}
        await emit(connection, change.project_id, change.mode, type_, data)
    return change


def _json(mode: str | None, fields: Fields | None) -> str | None:
    if fields is None:
        return None
    return orjson.dumps(fields if mode is None else {"mode": mode, **fields}).decode()
