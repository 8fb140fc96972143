"""The endpoints that tiers, customers, issuers, upstreams and routes share: list, get, create, update, delete.

An object is its spec's fields with `id` and `created_at`. An update (PATCH) replaces the fields it names and leaves the
others; the field that names the object cannot be changed. With If-Match an update happens only to what was read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Final, TypeVar

import asyncpg
import orjson
from pydantic import BaseModel, ValidationError

from admin.api import pages
from admin.api.call import Body, Call, Denied, Endpoint, Handler, Reply, flag, invalid, not_found
from admin.changes import Action, Change
from admin.declare.explain import explain
from admin.nouns import Noun, Scope, Stored, fields_of
from admin.permissions import Permission
from ledger import problems
from ledger.specs import CustomerSpec, IssuerSpec, RouteSpec, TierSpec, UpstreamSpec

S = TypeVar("S", TierSpec, CustomerSpec, IssuerSpec, UpstreamSpec, RouteSpec)
M = TypeVar("M", bound=BaseModel)


Affects = Callable[[asyncpg.Connection, Scope, Stored[S]], Awaitable[Mapping[str, Any]]]
_PASSING: Final = frozenset(("last_used_at", "lastUsedAt", "pending", "last_signed_in_at"))
"""What changes by itself."""
_DRY_RUN: Final = frozenset(("dry_run",))


class _Looked(Exception):
    """Ends the transaction of a dry run."""


async def tried(connection: asyncpg.Connection, act: Callable[[], Awaitable[list[Change]]]) -> list[Change]:
    """The changes that `act` makes, none of which is kept. Raises what it raises."""
    changes: list[Change] = []
    try:
        async with connection.transaction():
            changes = await act()
            raise _Looked
    except _Looked:
        return changes


def endpoints(
    noun: Noun[S],
    model: type[S],
    plural: str,
    reads: Permission,
    writes: Permission,
    affects: Affects[S] | None = None,
) -> tuple[Endpoint, ...]:
    """The five endpoints of a noun under /api/v1/{plural}, and what they need.

    With dry_run=true updating and deleting keep nothing and say what would change, and, by `affects`, for whom.
    """
    path = f"/api/v1/{plural}"

    def represent(stored: Stored[S]) -> dict[str, Any]:
        return {"id": stored.id, **fields_of(stored.spec), **stored.more, "created_at": stored.created_at}

    async def found(call: Call, object_id: str) -> Stored[S]:
        stored = await noun.get(call.connection, call.caller.scope, object_id)
        if stored is None:
            raise not_found(noun.NOUN, object_id)
        return stored

    async def list_(call: Call) -> Reply:
        """All of them, the newest first."""
        return await pages.paged(call.query, partial(noun.page, call.connection, call.caller.scope), represent)

    async def get(call: Call) -> Reply:
        """One of them, with its ETag."""
        return tagged(represent(await found(call, call.params["id"])))

    async def create(call: Call) -> Reply:
        """A new one."""
        spec = validated(model, in_scope(model, call.body, call.caller.scope))
        changes = await noun.create(call.connection, call.scope, spec, actor=call.caller.actor)
        object_id = changes[-1].object_id
        return Reply(represent(await found(call, object_id)), 201, f"{path}/{object_id}")

    async def update(call: Call) -> Reply:
        """Replace the fields that are named; with If-Match only if nobody else has changed it since."""
        current = await found(call, call.params["id"])
        check_match(call, represent(current))
        before = fields_of(current.spec)
        if noun.IDENTITY in call.body and call.body[noun.IDENTITY] != before[noun.IDENTITY]:
            raise invalid(noun.IDENTITY, f"names the {noun.NOUN} and cannot be changed; make another one")
        merged = {**before, **in_scope(model, call.body, call.caller.scope)}
        spec = validated(model, merged)
        act = partial(noun.update, call.connection, call.scope, current, spec, actor=call.caller.actor)
        if flag(call.query, "dry_run"):
            return await look(call, current, act)
        await act()
        return tagged(represent(await found(call, current.id)))

    async def delete(call: Call) -> Reply:
        """Remove it."""
        current = await found(call, call.params["id"])
        check_match(call, represent(current))
        act = partial(noun.delete, call.connection, call.caller.scope, current, actor=call.caller.actor)
        if flag(call.query, "dry_run"):
            return await look(call, current, act)
        await act()
        return Reply(status=204)

    async def look(call: Call, current: Stored[S], act: Callable[[], Awaitable[list[Change]]]) -> Reply:
        changes = await tried(call.connection, act)
        more = {} if affects is None else {"affected": await affects(call.connection, call.caller.scope, current)}
        return Reply({"dry_run": True, "changes": [as_told(change) for change in changes], **more})

    def endpoint(method: str, of: str, run: Handler, needs: Permission, **more: Any) -> Endpoint:
        return Endpoint(method, of, run, needs, shows=model, **more)

    one = f"{path}/{{id}}"
    given = {"body": Body.JSON, "model": model}
    changes: dict[str, Any] = {"writes": True, "matches": True, "query": _DRY_RUN}
    return (
        endpoint("GET", path, list_, reads, query=pages.QUERY),
        endpoint("POST", path, create, writes, writes=True, creates=True, **given),
        endpoint("GET", one, get, reads),
        endpoint("PATCH", one, update, writes, **given, **changes),
        endpoint("DELETE", one, delete, writes, **changes),
    )


def as_told(change: Change) -> dict[str, Any]:
    """A change, with what an update changed by field."""
    told: dict[str, Any] = {
        "action": change.action,
        "noun": change.noun,
        "name": change.name,
        "project_id": change.project_id,
        "mode": change.mode,
    }
    if change.action is Action.UPDATED:
        told["fields"] = {name: {"before": before, "after": after} for name, (before, after) in change.fields.items()}
    return told


def tagged(data: dict[str, Any]) -> Reply:
    """An object with its ETag, which changes whenever somebody changes something of it."""
    return Reply(data, headers={"ETag": etag(data)})


def etag(data: dict[str, Any]) -> str:
    """The entity tag of an object: of what can be changed of it, so that being used does not change it."""
    lasting = {name: value for name, value in data.items() if name not in _PASSING}
    return f'"{sha256(orjson.dumps(lasting, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]}"'


def check_match(call: Call, data: dict[str, Any]) -> None:
    """Raises Denied (412) if the caller says what it has read (If-Match), and that is not how it is now."""
    if call.if_match is not None and call.if_match.strip() != "*":
        tags = [tag.strip() for tag in call.if_match.split(",")]
        if etag(data) not in tags:
            raise Denied(problems.PRECONDITION_FAILED)


def in_scope(model: type[BaseModel], body: dict[str, Any], scope: Scope) -> dict[str, Any]:
    """The body with the mode of the key that sent it. Raises Denied if it names another."""
    if "modes" in model.model_fields:
        if "modes" in body:
            raise invalid("modes", f"is not a field here: this is a {scope.mode} key, and serves that mode alone")
        return {**body, "modes": [scope.mode]}
    if "mode" in model.model_fields:
        if body.get("mode", scope.mode) != scope.mode:
            raise invalid("mode", f"this is a {scope.mode} key, and serves that mode alone")
        return {**body, "mode": scope.mode}
    return body


def validated(model: type[M], body: dict[str, Any]) -> M:
    """The model of a body. Raises Denied with every field that is not valid."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = explain(error, model, body)
        raise Denied(problems.INVALID, "; ".join(str(fault) for fault in faults[:3]), errors=faults) from None
