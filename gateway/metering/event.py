"""The usage event's bytes (ledger/events.py has the form), made from the plan's ready part and the request's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from ledger.events import Outcome


def event_of(ex: Exchange, identity: bytes, meters: bytes, outcome: Outcome, now_ns: int) -> bytes:
    """One event as JSON.

    `identity` is the plan's `"project":…,"route":…` part, `meters` a JSON object of quantities, `now_ns` monotonic.
    """
    return (
        b'{"id":"%b","at":%d,%b,"method":"%b","status":%d,"outcome":"%b","meters":%b,"duration_us":%d,"upstream_us":%d}'
        % (
            ex.id,
            ex.at_ms,
            identity,
            ex.line.method,
            ex.status,
            outcome.encode(),
            meters,
            (now_ns - ex.started_ns) // 1000,
            (now_ns - ex.sent_ns) // 1000 if ex.sent_ns else 0,
        )
    )


def part_event_of(
    ex: Exchange,
    identity: bytes,
    meters: bytes,
    outcome: Outcome,
    part: tuple[bytes, int, int],
    notes: Mapping[str, Any],
) -> bytes:
    """The event of one part of a long request. `part` is its id, when it began (Unix ms) and how long it was (ms)."""
    part_id, at_ms, duration_ms = part
    return (
        b'{"id":"%b","at":%d,%b,"method":"%b","status":%d,"outcome":"%b","meters":%b,"duration_us":%d,"upstream_us":%d,'
        b'"notes":%b}'
    ) % (
        part_id,
        at_ms,
        identity,
        ex.line.method,
        ex.status,
        outcome.encode(),
        meters,
        duration_ms * 1000,
        duration_ms * 1000,
        orjson.dumps(notes),
    )
