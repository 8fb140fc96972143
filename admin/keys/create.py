"""Making keys: a new one, or the successor of one that is rotated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from admin.changes import Action, Refused, Unfit
from admin.keys.rows import Key, get_key, note
from admin.store import writing
from ledger import ids, sql
from ledger.keys import NewKey, generate
from ledger.specs import KeySpec

LONGEST_GRACE_S: Final = 30 * 86_400

_SQL = sql.load("admin.keys", "keys.sql")


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key just made; `key.text` is to be shown once and forgotten."""

    id: str
    key: NewKey


async def create_key(connection: asyncpg.Connection, project_id: str, spec: KeySpec, *, actor: str) -> CreatedKey:
    """Make a key. Raises Refused if its customer is not known or it would have expired already."""
    made = CreatedKey(ids.new_id("key"), generate(spec.kind, spec.mode))
    async with writing(connection):
        customer_id = None
        if spec.customer is not None:
            customer_id = await connection.fetchval(_SQL["customer_id"], project_id, spec.mode, spec.customer)
            if customer_id is None:
                raise Unfit(f"no {spec.mode} customer is called {spec.customer!r}", "customer")
        if spec.expires_at is not None and spec.expires_at <= datetime.now(UTC):
            raise Unfit("expires_at is in the past", "expires_at")
        await connection.execute(
            _SQL["insert"],
            made.id,
            project_id,
            spec.mode,
            spec.kind,
            spec.name,
            made.key.hash,
            made.key.prefix,
            customer_id,
            list(spec.scopes),
            spec.requests_per_minute,
            list(spec.allowed_origins),
            list(spec.allowed_ips),
            spec.expires_at,
        )
        await note(connection, Action.CREATED, made.id, None, actor=actor)
    return made


async def rotate_key(connection: asyncpg.Connection, key: Key, grace_seconds: int, *, actor: str) -> CreatedKey:
    """Make a new key like this one; this one lives on for `grace_seconds` (0 to 30 days) at most.

    Raises Refused if it was rotated before, is revoked, or has expired.
    """
    if not 0 <= grace_seconds <= LONGEST_GRACE_S:
        raise Unfit(f"expected 0 to {LONGEST_GRACE_S} seconds", "grace_seconds")
    made = CreatedKey(ids.new_id("key"), generate(key.kind, key.mode))
    async with writing(connection):
        current = await get_key(connection, key.id, key.scope)
        if current is None or current.revoked_at is not None:
            raise Refused(f"key {key.id} is revoked; make a new one")
        if current.rotated_to is not None:
            raise Refused(f"key {key.id} was rotated before; rotate its successor {current.rotated_to}")
        if current.has_expired:
            raise Refused(f"key {key.id} has expired; make a new one")
        await connection.execute(_SQL["copy"], made.id, made.key.hash, made.key.prefix, key.id)
        await note(connection, Action.CREATED, made.id, None, actor=actor)
        await connection.execute(_SQL["retire"], key.id, made.id, datetime.now(UTC) + timedelta(seconds=grace_seconds))
        await note(connection, Action.ROTATED, key.id, current, actor=actor)
    return made
