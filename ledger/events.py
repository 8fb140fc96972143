"""A usage event: one immutable fact about one request, and its form on the stream.

On the stream an event is one JSON object (field `e`), made by a gateway, read by the worker:

    {"id": "0199…32 hex", "at": 1763640000123, "project": "prj_…", "mode": "live", "customer": "cus_…"|null,
     "external": "ada"|null, "key": "key_…"|null, "route": "rte_…"|null, "method": "GET", "status": 200,
     "outcome": "completed", "meters": {"requests": 1, "bytes_out": 1024}, "duration_us": 1830, "upstream_us": 1200,
     "idem": "…"|absent, "notes": {"estimated": ["tokens"]}|absent}

`at` is when the request was admitted (Unix ms): the period an event belongs to never depends on when it was settled.
`external` is present when the customer is known by the project's own id only and may have to be created.
`notes` is what else is known: `estimated` names meters whose quantity no answer told; of a part of a long request,
`part_of` is the id of the request and `part` its number, from 0.
`idem` is the caller's idempotency key; two events of one project and customer that share it are one event.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

MAX_QUANTITY: Final = 2**53
"""Quantities above this cannot be read exactly by every JSON client and are refused."""

BUILT_IN_METERS: Final = ("requests", "bytes_in", "bytes_out", "messages_in", "messages_out")

MAX_NOTES: Final = 4096


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    """The whole response was handed to the client, whatever its status."""
    CLIENT_GONE = "client_gone"
    """The client disconnected first; billed for what passed."""
    UPSTREAM_FAILED = "upstream_failed"
    """The upstream refused, reset, timed out or sent something that is not HTTP."""
    INTERIM = "interim"
    """A part of a long request or connection: further parts follow."""
    LIMIT_REACHED = "limit_reached"
    """Broken off by the gateway, as a quota was used up on the way, or the key was revoked."""
    COUNTED = "counted"
    """POST /api/data: counted without proxying."""
    ORPHANED = "orphaned"
    """The gateway died; resolved by the sweeper."""


class InvalidEvent(ValueError):
    """The bytes are not a usage event. The message says why and names the field."""


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """The decoded form. `meters` maps meter name to a quantity ≥ 0; times are Unix ms and µs."""

    id: uuid.UUID
    at_ms: int
    project: str
    mode: str
    customer: str | None
    external: str | None
    key: str | None
    route: str | None
    method: str
    status: int
    outcome: str
    meters: Mapping[str, int]
    duration_us: int
    upstream_us: int
    idem: str | None
    notes: Mapping[str, Any] | None = None


def _integer(data: Mapping[str, Any], field: str, least: int = 0, most: int = MAX_QUANTITY) -> int:
    value = data.get(field)
    if type(value) is not int or not least <= value <= most:
        raise InvalidEvent(f"{field}: expected an integer from {least} to {most}, got {value!r:.40}")
    return value


def _text(data: Mapping[str, Any], field: str) -> str:
    value = data.get(field)
    if not isinstance(value, str) or not value or len(value) > 256 or "\0" in value:
        raise InvalidEvent(f"{field}: expected 1 to 256 characters, got {value!r:.40}")
    return value


def _optional(data: Mapping[str, Any], field: str) -> str | None:
    return None if data.get(field) is None else _text(data, field)


def decode(raw: bytes) -> UsageEvent:
    """Read one event from the stream, believing nothing.

    Raises InvalidEvent with the field and the reason; such an entry belongs in the dead-letter table.
    """
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidEvent("not a JSON object")
    hexadecimal = _text(data, "id")
    try:
        event_id = uuid.UUID(hex=hexadecimal)
    except ValueError as error:
        raise InvalidEvent(f"id: {error}") from None
    mode = _text(data, "mode")
    if mode not in ("live", "test"):
        raise InvalidEvent(f"mode: expected live or test, got {mode!r:.40}")
    meters = data.get("meters")
    if not isinstance(meters, dict) or len(meters) > 64:
        raise InvalidEvent("meters: expected an object of at most 64 quantities")
    for name in meters:
        if not name or len(name) > 64 or "\0" in name:
            raise InvalidEvent(f"meters: a meter's name has 1 to 64 characters, got {name!r:.80}")
        _integer(meters, name)
    notes = data.get("notes")
    if notes is not None and (not isinstance(notes, dict) or len(orjson.dumps(notes)) > MAX_NOTES):
        raise InvalidEvent(f"notes: expected an object of at most {MAX_NOTES} bytes")
    return UsageEvent(
        id=event_id,
        at_ms=_integer(data, "at"),
        project=_text(data, "project"),
        mode=mode,
        customer=_optional(data, "customer"),
        external=_optional(data, "external"),
        key=_optional(data, "key"),
        route=_optional(data, "route"),
        method=_text(data, "method"),
        status=_integer(data, "status", 0, 999),
        outcome=_text(data, "outcome"),
        meters=meters,
        duration_us=_integer(data, "duration_us"),
        upstream_us=_integer(data, "upstream_us"),
        idem=_optional(data, "idem"),
        notes=notes,
    )
