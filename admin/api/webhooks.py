"""/api/v1/webhooks: endpoints, their secrets (shown once), and the log of what was delivered."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from admin.api import pages
from admin.api.call import Body, Call, Endpoint, Reply, not_found
from admin.api.resources import check_match, tagged, validated
from admin.permissions import Permission
from admin.webhooks import rows
from admin.webhooks.rows import Delivery, EndpointSpec, represent

_PATH: Final = "/api/v1/webhooks"


async def _found(call: Call) -> rows.Endpoint:
    endpoint = await rows.get(call.connection, call.scope, call.params["id"])
    if endpoint is None:
        raise not_found("endpoint", call.params["id"])
    return endpoint


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "message_id": delivery.message_id,
        "type": delivery.type,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "last_at": delivery.last_at,
        "next_at": delivery.next_at,
        "created_at": delivery.created_at,
    }


async def list_(call: Call) -> Reply:
    """All endpoints."""
    return await pages.paged(call.query, partial(rows.page, call.connection, call.scope), represent)


async def get(call: Call) -> Reply:
    """One endpoint, with its ETag."""
    return tagged(represent(await _found(call)))


async def create(call: Call) -> Reply:
    """A new endpoint, with its secret: shown once."""
    spec = validated(EndpointSpec, call.body)
    endpoint_id, secret = await rows.create(call.connection, call.scope, spec, actor=call.caller.actor)
    made = await rows.get(call.connection, call.scope, endpoint_id)
    assert made is not None  # made just now, in this transaction
    return Reply({"secret": secret, **represent(made)}, 201, f"{_PATH}/{endpoint_id}", is_secret=True)


async def update(call: Call) -> Reply:
    """Replace the fields that are named; with If-Match only if nobody else has changed it since."""
    current = await _found(call)
    check_match(call, represent(current))
    spec = validated(EndpointSpec, {**current.spec.model_dump(), **call.body})
    await rows.update(call.connection, call.scope, current, spec, actor=call.caller.actor)
    return tagged(represent(await _found(call)))


async def delete(call: Call) -> Reply:
    """Remove it, with what waits for it."""
    current = await _found(call)
    check_match(call, represent(current))
    await rows.delete(call.connection, call.scope, current, actor=call.caller.actor)
    return Reply(status=204)


async def rotate(call: Call) -> Reply:
    """A new secret, shown once; for 24 hours the old one signs as well."""
    secret = await rows.rotate(call.connection, call.scope, await _found(call), actor=call.caller.actor)
    endpoint = await _found(call)
    return Reply({"secret": secret, **represent(endpoint)}, 201, f"{_PATH}/{endpoint.id}", is_secret=True)


async def test(call: Call) -> Reply:
    """Send an event of type test.sent."""
    await rows.send_test(call.connection, call.scope, await _found(call))
    return Reply({"queued": True}, 202)


async def deliveries(call: Call) -> Reply:
    """What was delivered, and what was not, the newest first."""
    return await pages.paged(call.query, partial(rows.deliveries, call.connection, await _found(call)), _delivery)


async def resend(call: Call) -> Reply:
    """Deliver a message once more, after what waits already."""
    made = await rows.resend(call.connection, await _found(call), call.params["delivery"])
    if made is None:
        raise not_found("delivery", call.params["delivery"])
    return Reply({"id": made}, 202)


_READ, _WRITE = Permission.WEBHOOKS_READ, Permission.WEBHOOKS_WRITE
ENDPOINTS: Final = (
    Endpoint("GET", _PATH, list_, _READ, shows=EndpointSpec, query=pages.QUERY),
    Endpoint(
        "POST", _PATH, create, _WRITE, body=Body.JSON, model=EndpointSpec, shows=EndpointSpec, writes=True, creates=True
    ),
    Endpoint("GET", f"{_PATH}/{{id}}", get, _READ, shows=EndpointSpec),
    Endpoint(
        "PATCH",
        f"{_PATH}/{{id}}",
        update,
        _WRITE,
        body=Body.JSON,
        model=EndpointSpec,
        shows=EndpointSpec,
        writes=True,
        matches=True,
    ),
    Endpoint("DELETE", f"{_PATH}/{{id}}", delete, _WRITE, writes=True, matches=True),
    Endpoint("POST", f"{_PATH}/{{id}}/rotate", rotate, _WRITE, shows=EndpointSpec, writes=True, creates=True),
    Endpoint("POST", f"{_PATH}/{{id}}/test", test, _WRITE, writes=True, creates=True),
    Endpoint("GET", f"{_PATH}/{{id}}/deliveries", deliveries, _READ, query=pages.QUERY),
    Endpoint("POST", f"{_PATH}/{{id}}/deliveries/{{delivery}}/resend", resend, _WRITE, writes=True, creates=True),
)
