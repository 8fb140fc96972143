"""/api/v1/keys: made and rotated (the text is shown once), listed, revoked."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from admin.api import pages
from admin.api.call import Body, Call, Denied, Endpoint, Reply, not_found
from admin.api.resources import check_match, in_scope, tagged, validated
from admin.keys import CreatedKey, Key, create_key, get_key, list_keys, revoke_key, rotate_key
from admin.keys.create import LONGEST_GRACE_S
from admin.keys.rows import fields_of
from admin.nouns import Scope
from admin.permissions import Permission, needed_for
from ledger import problems
from ledger.keys import KeyKind
from ledger.specs import KeySpec

_PATH: Final = "/api/v1/keys"


class Rotation(BaseModel):
    """How long the old key lives on, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graceSeconds: int = Field(default=0, ge=0, le=LONGEST_GRACE_S)


def represent(key: Key) -> dict[str, Any]:
    """A key as it is shown; there is no text to show."""
    return {"id": key.id, **fields_of(key), "last_used_at": key.last_used_at, "created_at": key.created_at}


async def found(call: Call) -> Key:
    """The key that the path names. Raises Denied."""
    key = await get_key(call.connection, call.params["id"], call.caller.scope)
    if key is None:
        raise not_found("key", call.params["id"])
    return key


async def make(call: Call, project_id: str, body: dict[str, Any]) -> Reply:
    """Make a key for a project, in the caller's mode."""
    spec = spec_of(call, body)
    created = await create_key(call.connection, project_id, spec, actor=call.caller.actor)
    key = await get_key(call.connection, created.id, Scope(project_id, call.caller.mode))
    assert key is not None  # made just now, in this transaction
    return Reply({"key": created.key.text, **represent(key)}, 201, f"{_PATH}/{created.id}", is_secret=True)


def spec_of(call: Call, body: dict[str, Any]) -> KeySpec:
    """The spec of a key in the caller's mode, which the caller may make. Raises Denied."""
    spec = validated(KeySpec, in_scope(KeySpec, body, call.caller.scope))
    _may_make(call, spec.kind, spec.scopes)
    return spec


def _may_make(call: Call, kind: KeyKind, scopes: Collection[str]) -> None:
    if (needed := needed_for(kind, scopes)) not in call.caller.grants:
        raise Denied(problems.FORBIDDEN, f"{TOO_MUCH} ({needed})")


TOO_MUCH: Final = (
    "A secret key without scopes, or with the scope admin, may do more than you: give it scopes, such as calls."
)


async def rotated(call: Call) -> tuple[Key, CreatedKey]:
    """Rotate the key that the path names; returns it as it is now, and its successor."""
    rotation = validated(Rotation, call.body)
    key = await found(call)
    _may_make(call, key.kind, key.scopes)
    created = await rotate_key(call.connection, key, rotation.graceSeconds, actor=call.caller.actor)
    return await found(call), created


async def list_(call: Call) -> Reply:
    """All keys, revoked ones too."""
    return await pages.paged(call.query, partial(list_keys, call.connection, call.caller.scope), represent)


async def create(call: Call) -> Reply:
    """A new key."""
    return await make(call, call.caller.project_id, call.body)


async def get(call: Call) -> Reply:
    """One key, with its ETag."""
    return tagged(represent(await found(call)))


async def revoke(call: Call) -> Reply:
    """The key as it is when it is revoked, which it may have been before."""
    key = await found(call)
    check_match(call, represent(key))
    return tagged(represent(await revoke_key(call.connection, key, actor=call.caller.actor)))


async def rotate(call: Call) -> Reply:
    """The successor with its text, and until when the old key works."""
    old, created = await rotated(call)
    key = await get_key(call.connection, created.id, call.caller.scope)
    assert key is not None  # made just now, in this transaction
    data = {"key": created.key.text, **represent(key), "rotated": {"id": old.id, "expires_at": old.expires_at}}
    return Reply(data, 201, f"{_PATH}/{created.id}", is_secret=True)


ENDPOINTS: Final = (
    Endpoint("GET", _PATH, list_, Permission.KEYS_READ, shows=KeySpec, query=pages.QUERY),
    Endpoint(
        "POST",
        _PATH,
        create,
        Permission.KEYS_WRITE,
        body=Body.JSON,
        model=KeySpec,
        shows=KeySpec,
        writes=True,
        creates=True,
    ),
    Endpoint("GET", f"{_PATH}/{{id}}", get, Permission.KEYS_READ, shows=KeySpec),
    Endpoint("DELETE", f"{_PATH}/{{id}}", revoke, Permission.KEYS_WRITE, shows=KeySpec, writes=True, matches=True),
    Endpoint(
        "POST",
        f"{_PATH}/{{id}}/rotate",
        rotate,
        Permission.KEYS_WRITE,
        body=Body.OPTIONAL_JSON,
        model=Rotation,
        shows=KeySpec,
        writes=True,
        creates=True,
    ),
)
