"""Keys as rows: found, listed, revoked, noted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import asyncpg

from admin.changes import Action, Change, record
from admin.nouns import Scope
from admin.store import writing
from ledger import sql
from ledger.keys import KeyKind, Mode

NOUN: Final = "key"

_SQL = sql.load("admin.keys", "keys.sql")
_PAGE, _ONE = (f"{_SQL['select']} {_SQL[which]}" for which in ("of_page", "of_id"))


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is known: everything but its text. `customer` is the external id of the customer it is bound to."""

    id: str
    project_id: str
    mode: Mode
    kind: KeyKind
    name: str
    prefix: str
    customer: str | None
    scopes: tuple[str, ...]
    requests_per_minute: int | None
    allowed_origins: tuple[str, ...]
    allowed_ips: tuple[IPv4Network | IPv6Network, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_to: str | None
    last_used_at: datetime | None
    created_at: datetime

    @property
    def scope(self) -> Scope:
        """The project and mode it belongs to."""
        return Scope(self.project_id, self.mode)

    @property
    def has_expired(self) -> bool:
        """True once `expires_at` has come."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


async def list_keys(connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None) -> list[Key]:
    """At most `limit` keys (None: all) with ids below `before`, by descending id; revoked ones too."""
    return [_key(row) for row in await connection.fetch(_PAGE, scope.project_id, scope.mode, before, limit)]


async def get_key(connection: asyncpg.Connection, key_id: str, scope: Scope | None = None) -> Key | None:
    """The key of this id, or None; with a scope, only if it is in there."""
    row = await connection.fetchrow(_ONE, None if scope is None else scope.project_id, scope and scope.mode, key_id)
    return None if row is None else _key(row)


async def has_secret_key(connection: asyncpg.Connection, scope: Scope) -> bool:
    """True if a secret key works there."""
    return bool(await connection.fetchval(_SQL["has_secret"], scope.project_id, scope.mode))


async def revoke_key(connection: asyncpg.Connection, key: Key, *, actor: str) -> Key:
    """Revoke a key now; one that is revoked already stays as it is. Returns it as it is afterwards."""
    async with writing(connection):
        if await connection.fetchval(_SQL["revoke"], key.id) is not None:
            await note(connection, Action.REVOKED, key.id, key, actor=actor)
        revoked = await get_key(connection, key.id)
    assert revoked is not None
    return revoked


def fields_of(key: Key) -> dict[str, Any]:
    """A key's fields as JSON, without the id."""
    return {
        "name": key.name,
        "kind": key.kind,
        "mode": key.mode,
        "prefix": key.prefix,
        "customer": key.customer,
        "scopes": key.scopes,
        "requests_per_minute": key.requests_per_minute,
        "allowed_origins": key.allowed_origins,
        "allowed_ips": [str(network) for network in key.allowed_ips],
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "rotated_to": key.rotated_to,
    }


async def note(connection: asyncpg.Connection, action: Action, key_id: str, before: Key | None, *, actor: str) -> None:
    """Write the audit row of what was done to a key, in the transaction that did it."""
    after = await get_key(connection, key_id)
    assert after is not None
    change = Change(
        action,
        NOUN,
        after.name,
        key_id,
        after.project_id,
        after.mode,
        None if before is None else fields_of(before),
        fields_of(after),
    )
    await record(connection, change, actor=actor)


def _key(row: asyncpg.Record) -> Key:
    values = dict(row)
    for name in ("scopes", "allowed_origins", "allowed_ips"):
        values[name] = tuple(values[name])
    return Key(**{**values, "mode": Mode(values["mode"]), "kind": KeyKind(values["kind"])})
