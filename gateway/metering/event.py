"""The usage event's bytes (ledger/events.py has the form), made from the plan's ready part and the request's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from gateway.metering.count import quantities

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from ledger.events import Outcome


def event_of(
    ex: Exchange, identity: bytes, fixed: dict[str, int], outcome: Outcome, now_ns: int, *, is_charged: bool
) -> bytes:
    """One event as JSON. `identity` is the plan's `"project":…,"route":…` part; `now_ns` is monotonic."""
    meters = quantities(fixed, is_charged=is_charged, bytes_in=ex.bytes_in, bytes_out=ex.bytes_out)
    return (
        b'{"id":"%b","at":%d,%b,"method":"%b","status":%d,"outcome":"%b","meters":%b,"duration_us":%d,"upstream_us":%d}'
        % (
            ex.id,
            ex.at_ms,
            identity,
            ex.line.method,
            ex.status,
            outcome.encode(),
            orjson.dumps(meters),
            (now_ns - ex.started_ns) // 1000,
            (now_ns - ex.sent_ns) // 1000 if ex.sent_ns else 0,
        )
    )
