"""The short paths: /api/keys in camelCase, and /api/tiers, which publishable keys may read too.

They do what /api/v1 does, with the names that people type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from admin.api import keys, pages, tiers
from admin.api.call import Body, Call, Denied, Endpoint, Reply, invalid
from admin.api.resources import check_match, tagged
from admin.changes import Refused
from admin.keys import Key, create_key, list_keys, revoke_key
from admin.permissions import Permission
from ledger.keys import KeyKind
from ledger.spec_types import Origin
from ledger.specs import ExternalId, Name, Title

_PATH: Final = "/api/keys"
_FIELDS: Final = {
    "name": "name",
    "kind": "kind",
    "customer": "customer",
    "scopes": "scopes",
    "rateLimitPerMinute": "requests_per_minute",
    "allowedDomains": "allowed_origins",
    "expiresAt": "expires_at",
}
_WIRE_NAMES: Final = {ours: wire for wire, ours in _FIELDS.items()}


class NewKey(BaseModel):
    """A key to be made, by the names that people type. What is wrong is told by ledger.specs.KeySpec."""

    model_config = ConfigDict(extra="forbid")

    name: Title
    kind: KeyKind = KeyKind.SECRET
    customer: ExternalId | None = None
    scopes: tuple[Name, ...] = ()
    rateLimitPerMinute: int | None = Field(default=None, ge=1, le=10_000)
    allowedDomains: tuple[Origin, ...] = ()
    expiresAt: datetime | None = None


def _represent(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "kind": key.kind,
        "mode": key.mode,
        "prefix": key.prefix,
        "customer": key.customer,
        "scopes": key.scopes,
        "rateLimitPerMinute": key.requests_per_minute,
        "allowedDomains": key.allowed_origins,
        "expiresAt": key.expires_at,
        "revokedAt": key.revoked_at,
        "rotatedTo": key.rotated_to,
        "lastUsedAt": key.last_used_at,
        "createdAt": key.created_at,
    }


@contextmanager
def _wire_names() -> Iterator[None]:
    """Errors about fields, with the fields' names as they are here."""
    try:
        yield
    except Denied as denied:
        faults = [replace(fault, path=_wire_name(fault.path)) for fault in denied.errors]
        detail = "; ".join(str(fault) for fault in faults[:3]) or denied.detail
        raise Denied(denied.problem, detail, errors=faults, headers=denied.headers) from None
    except Refused as refused:
        raise type(refused)(refused.message, *(_WIRE_NAMES.get(str(part), part) for part in refused.path)) from None


def _wire_name(path: str) -> str:
    """allowed_origins[0] as allowedDomains[0]."""
    name, bracket, rest = path.partition("[")
    return _WIRE_NAMES.get(name, name) + bracket + rest


async def list_keys_(call: Call) -> Reply:
    """All keys, with when each was last used."""
    return await pages.paged(call.query, partial(list_keys, call.connection, call.caller.scope), _represent)


async def create(call: Call) -> Reply:
    """A new key: its text, once."""
    if unknown := sorted(call.body.keys() - _FIELDS.keys()):
        raise invalid(unknown[0], f"unknown field (known: {', '.join(_FIELDS)})")
    with _wire_names():
        spec = keys.spec_of(call, {_FIELDS[name]: value for name, value in call.body.items()})
        created = await create_key(call.connection, call.caller.project_id, spec, actor=call.caller.actor)
    data = {"key": created.key.text, "id": created.id, "prefix": created.key.prefix}
    return Reply(data, 201, f"{_PATH}/{created.id}", is_secret=True)


async def get(call: Call) -> Reply:
    """One key, with its ETag."""
    return tagged(_represent(await keys.found(call)))


async def revoke(call: Call) -> Reply:
    """The key as it is when it is revoked, which it may have been before."""
    key = await keys.found(call)
    check_match(call, _represent(key))
    return tagged(_represent(await revoke_key(call.connection, key, actor=call.caller.actor)))


async def rotate(call: Call) -> Reply:
    """The successor's text, once, and until when the old key works."""
    old, created = await keys.rotated(call)
    data = {"key": created.key.text, "id": created.id, "prefix": created.key.prefix, "oldKeyExpiresAt": old.expires_at}
    return Reply(data, 201, f"{_PATH}/{created.id}", is_secret=True)


ENDPOINTS: Final = (
    Endpoint("GET", _PATH, list_keys_, Permission.KEYS_READ, query=pages.QUERY),
    Endpoint("POST", _PATH, create, Permission.KEYS_WRITE, body=Body.JSON, model=NewKey, writes=True, creates=True),
    Endpoint("GET", f"{_PATH}/{{id}}", get, Permission.KEYS_READ),
    Endpoint("DELETE", f"{_PATH}/{{id}}", revoke, Permission.KEYS_WRITE, writes=True, matches=True),
    Endpoint(
        "POST",
        f"{_PATH}/{{id}}/rotate",
        rotate,
        Permission.KEYS_WRITE,
        body=Body.OPTIONAL_JSON,
        model=keys.Rotation,
        writes=True,
        creates=True,
    ),
    replace(
        next(endpoint for endpoint in tiers.ENDPOINTS if endpoint.run.__name__ == "list_"),
        path="/api/tiers",
        kinds=frozenset((KeyKind.SECRET, KeyKind.PUBLISHABLE)),
        is_browser_safe=True,
    ),
)
