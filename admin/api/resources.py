"""The endpoints that tiers, customers, issuers, upstreams and routes share: list, get, create, update, delete.

An object is its spec's fields with `id` and `created_at`. An update (PATCH) replaces the fields it names and leaves the
others; the field that names the object cannot be changed. With If-Match an update happens only to what was read.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from admin.api import pages
from admin.api.call import Body, Call, Denied, Endpoint, Reply, invalid, not_found
from admin.declare.explain import explain
from admin.nouns import Noun, Scope, Stored, fields_of
from admin.permissions import Permission
from ledger import problems
from ledger.specs import CustomerSpec, IssuerSpec, RouteSpec, TierSpec, UpstreamSpec

S = TypeVar("S", TierSpec, CustomerSpec, IssuerSpec, UpstreamSpec, RouteSpec)
M = TypeVar("M", bound=BaseModel)


def endpoints(
    noun: Noun[S], model: type[S], plural: str, reads: Permission, writes: Permission
) -> tuple[Endpoint, ...]:
    """The five endpoints of a noun under /api/v1/{plural}, and what they need."""
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
        await noun.update(call.connection, call.scope, current, spec, actor=call.caller.actor)
        return tagged(represent(await found(call, current.id)))

    async def delete(call: Call) -> Reply:
        """Remove it."""
        current = await found(call, call.params["id"])
        check_match(call, represent(current))
        await noun.delete(call.connection, call.caller.scope, current, actor=call.caller.actor)
        return Reply(status=204)

    return (
        Endpoint("GET", path, list_, reads, query=pages.QUERY),
        Endpoint("POST", path, create, writes, body=Body.JSON, model=model, writes=True, creates=True),
        Endpoint("GET", f"{path}/{{id}}", get, reads),
        Endpoint("PATCH", f"{path}/{{id}}", update, writes, body=Body.JSON, model=model, writes=True),
        Endpoint("DELETE", f"{path}/{{id}}", delete, writes, writes=True),
    )


def tagged(data: dict[str, Any]) -> Reply:
    """An object with its ETag, which changes whenever anything of it does."""
    return Reply(data, headers={"ETag": etag(data)})


def etag(data: dict[str, Any]) -> str:
    """The strong entity tag of an object as it is shown."""
    return f'"{sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]}"'


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
