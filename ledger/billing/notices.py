"""Notices: events that Stripe delivers to a webhook. Verified on the raw bytes, and stored once by their id.

Who receives one verifies and stores it, and acknowledges then: nothing is looked up and nothing handled while Stripe waits,
and a second delivery finds the first. What a notice says is not believed beyond its id and kind: whoever handles it
(ledger.billing.reports) asks Stripe for the event. So notices may come twice, late, in any order, or be made up.

The signature is Stripe's: HMAC-SHA256 under the endpoint's secret over `{t}.{body}`, in a header `t=…,v1=…`; while a secret
is replaced there are two. Times more than five minutes from ours are refused, in the future as well.

How it fails: `verified` raises Forged, `read` raises Unreadable; nothing is stored then.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

from ledger import sql

ERROR_REPORTS: Final = frozenset(("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"))
"""What is handled; other kinds are stored, and ignored with that reason."""
TOLERANCE_S: Final = 300
MOST_BYTES: Final = 256 * 1024
"""Stripe's largest are some tens of kilobytes."""

NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""In JSON, what jsonb does not take."""
_ID: Final = re.compile(r"evt_[A-Za-z0-9_]{1,250}", re.ASCII)
_SQL: Final = sql.load("ledger.billing", "notices.sql")


class Forged(ValueError):
    """The signature is missing, wrong, or not of now. The message is public."""


class Unreadable(ValueError):
    """Signed by Stripe's secret, and still no event. The message is public."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One delivered event. `account` is '' where it names no connected account."""

    id: str
    account: str
    mode: str
    kind: str
    payload: str


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """What stands under v1."""
    return hmac.digest(secret.encode(), b"%d.%b" % (timestamp, body), "sha256").hex()


def verified(body: bytes, header: str | None, secrets: Sequence[str], now: float) -> None:
    """Return if `body` was signed under one of the secrets within TOLERANCE_S of `now` (Unix s). Raises Forged. Pure."""
    if not header:
        raise Forged("There is no Stripe-Signature.")
    parts = [part.strip().partition("=") for part in header[:4096].split(",")]
    times = [value for name, _, value in parts if name == "t"]
    if len(times) != 1 or not re.fullmatch(r"\d{1,12}", times[0], re.ASCII):
        raise Forged("The Stripe-Signature has no time.")
    timestamp = int(times[0])
    given = [value.encode(errors="replace") for name, _, value in parts if name == "v1"]
    expected = [signature(secret, timestamp, body).encode() for secret in secrets]
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in given):
        raise Forged("The Stripe-Signature is not that of this body.")
    if abs(now - timestamp) > TOLERANCE_S:
        raise Forged("The Stripe-Signature is not of the last five minutes.")


def read(body: bytes) -> Notice:
    """A notice out of a verified body, believing little. Raises Unreadable. Pure."""
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Unreadable("The body is not JSON.") from None
    if not isinstance(event, dict):
        raise Unreadable("The body is not a JSON object.")
    event_id, kind, livemode = event.get("id"), event.get("type"), event.get("livemode")
    if not isinstance(event_id, str) or not _ID.fullmatch(event_id):
        raise Unreadable("The event has no id.")
    if not isinstance(kind, str) or not 1 <= len(kind) <= 200 or "\0" in kind or type(livemode) is not bool:
        raise Unreadable("The event has no type or no livemode.")
    account = event.get("account") or event.get("context") or ""  # of a v1 event, of a thin one
    if not isinstance(account, str) or len(account) > 255 or "\0" in account:
        raise Unreadable("The event's account is not one.")
    text = NUL.sub(r"\1\\ufffd", body.decode())
    return Notice(event_id, account, "live" if livemode else "test", kind, text)


async def store(connection: asyncpg.Connection, notice: Notice) -> bool:
    """Keep a notice, once; False if it was there already. Errors are those of the connection."""
    state, reason = ("received", None) if notice.kind in ERROR_REPORTS else ("ignored", "nothing handles this kind yet")
    added = await connection.fetchval(
        _SQL["store"], notice.id, notice.account, notice.mode, notice.kind, notice.payload, state, reason
    )
    return added is not None


async def newest(connection: asyncpg.Connection, limit: int = 50) -> list[dict[str, Any]]:
    """The last notices and what became of them."""
    return [dict(row) for row in await connection.fetch(_SQL["newest"], limit)]
