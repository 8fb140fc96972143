"""Webhook endpoints as rows. Functions that change something must run inside `store.writing`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

import asyncpg
import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from admin.changes import Action, Change, Refused, Unfit, record
from admin.nouns import Scope
from ledger import ids, sql
from ledger.keys import Mode
from ledger.webhooks.emit import TYPES
from ledger.webhooks.public import is_allowed_url
from ledger.webhooks.sign import new_secret

NOUN: Final = "endpoint"
MOST: Final = 20
"""Endpoints in one half of a project."""

_SQL = sql.load("admin.webhooks", "webhooks.sql")
_PAGE, _ONE = (f"{_SQL['select']} {_SQL[which]}" for which in ("of_page", "of_id"))


def _url(value: str) -> str:
    if len(value) > 2000 or not is_allowed_url(value, allow_private=True):
        raise ValueError("expected https://host/path of at most 2000 characters, without a user or fragment")
    return value


class EndpointSpec(BaseModel):
    """An address and what it wants to be told. Only public addresses are called, with TLS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_url)]
    events: tuple[str, ...] = Field(default=(), max_length=50)
    """Types such as key.revoked; without any, all."""
    enabled: bool = True

    @model_validator(mode="after")
    def _known_types(self) -> Self:
        if unknown := sorted(set(self.events) - set(TYPES)):
            raise ValueError(f"events: no event is called {unknown[0]!r:.60} (known: {', '.join(TYPES)})")
        return self


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it is known; its secret is not. `pending` deliveries wait for it."""

    id: str
    mode: Mode
    url: str
    events: tuple[str, ...]
    is_enabled: bool
    old_secret_until: datetime | None
    created_at: datetime
    pending: int

    @property
    def spec(self) -> EndpointSpec:
        return EndpointSpec(url=self.url, events=self.events, enabled=self.is_enabled)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one endpoint. `state` is pending, delivered or given_up."""

    id: str
    message_id: str
    type: str
    body: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    last_at: datetime | None
    next_at: datetime | None
    created_at: datetime


async def page(connection: asyncpg.Connection, scope: Scope, before: str | None, limit: int | None) -> list[Endpoint]:
    """At most `limit` endpoints with ids below `before`, by descending id."""
    return [_endpoint(row) for row in await connection.fetch(_PAGE, scope.project_id, scope.mode, before, limit)]


async def get(connection: asyncpg.Connection, scope: Scope, endpoint_id: str) -> Endpoint | None:
    """The endpoint of this id, or None if there is none in this scope."""
    row = await connection.fetchrow(_ONE, scope.project_id, scope.mode, endpoint_id)
    return None if row is None else _endpoint(row)


async def create(connection: asyncpg.Connection, scope: Scope, spec: EndpointSpec, *, actor: str) -> tuple[str, str]:
    """Make an endpoint; returns its id and its secret, to be shown once. Raises Refused."""
    if await connection.fetchval(_SQL["count"], scope.project_id, scope.mode) >= MOST:
        raise Refused(f"there are {MOST} endpoints; delete one first")
    endpoint_id = ids.new_id("endpoint")
    secret = new_secret()
    sealed = _sealed(scope, secret, endpoint_id)
    await connection.execute(
        _SQL["insert"], endpoint_id, scope.project_id, scope.mode, spec.url, list(spec.events), sealed
    )
    await connection.execute(_SQL["update"], endpoint_id, spec.url, list(spec.events), spec.enabled)
    await _note(connection, Action.CREATED, scope, endpoint_id, None, spec, actor)
    return endpoint_id, secret


async def update(
    connection: asyncpg.Connection, scope: Scope, current: Endpoint, spec: EndpointSpec, *, actor: str
) -> None:
    """Bring an endpoint to `spec`."""
    if spec != current.spec:
        await connection.execute(_SQL["update"], current.id, spec.url, list(spec.events), spec.enabled)
        await _note(connection, Action.UPDATED, scope, current.id, current.spec, spec, actor)


async def rotate(connection: asyncpg.Connection, scope: Scope, current: Endpoint, *, actor: str) -> str:
    """A new secret, to be shown once; for 24 hours the old one signs as well. Raises Refused."""
    secret = new_secret()
    await connection.execute(_SQL["rotate"], current.id, _sealed(scope, secret, current.id))
    await _note(connection, Action.ROTATED, scope, current.id, current.spec, current.spec, actor)
    return secret


async def delete(connection: asyncpg.Connection, scope: Scope, current: Endpoint, *, actor: str) -> None:
    """Remove an endpoint with what waits for it."""
    await connection.execute(_SQL["delete"], current.id)
    await _note(connection, Action.DELETED, scope, current.id, current.spec, None, actor)


async def deliveries(
    connection: asyncpg.Connection, endpoint: Endpoint, before: str | None, limit: int | None
) -> list[Delivery]:
    """At most `limit` deliveries below the id `before`, the newest first."""
    number = None if before is None else _number(before)
    rows = await connection.fetch(_SQL["deliveries"], endpoint.id, number, limit)
    return [
        Delivery(
            f"dlv_{row['id']}",
            row["message_id"],
            row["type"],
            row["body"],
            row["state"],
            row["attempts"],
            row["last_status"],
            row["last_error"],
            row["last_at"],
            row["available_at"] if row["state"] == "pending" else None,
            row["created_at"],
        )
        for row in rows
    ]


async def resend(connection: asyncpg.Connection, endpoint: Endpoint, delivery_id: str) -> str | None:
    """Queue a delivery once more; returns the new one's id, None if there is no such delivery of the endpoint."""
    made = await connection.fetchval(_SQL["resend"], _number(delivery_id), endpoint.id)
    return None if made is None else f"dlv_{made}"


async def send_test(connection: asyncpg.Connection, scope: Scope, endpoint: Endpoint) -> None:
    """Queue an event of type test.sent, whatever the endpoint asks for."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    body = {"type": "test.sent", "timestamp": now, "mode": scope.mode, "data": {"endpoint": endpoint.id}}
    text = orjson.dumps(body).decode()
    message_id = ids.new_id("message")
    await connection.execute(_SQL["send"], message_id, scope.project_id, scope.mode, "test.sent", text, endpoint.id)


def represent(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as it is shown."""
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.events,
        "enabled": endpoint.is_enabled,
        "pending": endpoint.pending,
        "old_secret_until": endpoint.old_secret_until,
        "created_at": endpoint.created_at,
    }


def _number(delivery_id: str) -> int:
    """The number in an id, 0 where there is none."""
    number = delivery_id.partition("_")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 18 else 0


def _sealed(scope: Scope, secret: str, endpoint_id: str) -> bytes:
    if scope.vault is None:
        raise Unfit("cannot be stored: no encryption key is set (TOLLGATE_ENCRYPTION_KEYS)", "url")
    return scope.vault.seal(secret, endpoint_id)


async def _note(
    connection: asyncpg.Connection,
    action: Action,
    scope: Scope,
    endpoint_id: str,
    before: EndpointSpec | None,
    after: EndpointSpec | None,
    actor: str,
) -> None:
    named = after or before
    change = Change(
        action,
        NOUN,
        "" if named is None else named.url,
        endpoint_id,
        scope.project_id,
        scope.mode,
        None if before is None else before.model_dump(mode="json"),
        None if after is None else after.model_dump(mode="json"),
    )
    await record(connection, change, actor=actor)


def _endpoint(row: asyncpg.Record) -> Endpoint:
    return Endpoint(**{**row, "mode": Mode(row["mode"]), "events": tuple(row["events"])})
