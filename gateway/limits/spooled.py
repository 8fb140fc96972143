"""What a gateway writes to its spool, and how it is told to Redis later (replay.lua). Pure.

Two kinds of record, both JSON: `settle`, a settlement that Redis did not take, and `hold`, a request that was admitted
without Redis (the route's policy allowed it): what it counts against, so that it can be counted when Redis is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import hiredis
import orjson

from gateway.limits.calls import script_sha
from gateway.store.redis import encode
from ledger import names

if TYPE_CHECKING:
    from gateway.limits.plan import Plan
    from gateway.spool.disk import Entry

REPLAY: Final = resources.files("gateway.limits").joinpath("replay.lua").read_text()
_SHA: Final = script_sha(REPLAY).decode()


class Unreadable(ValueError):
    """A record is not what this module writes: by another release, perhaps."""


def settle_record(keys: bytes, key_count: int, arguments: bytes, argument_count: int) -> bytes:
    """A settlement, given as the RESP strings of its keys and arguments (gateway.limits.limiter)."""
    reader = hiredis.Reader()
    reader.feed(b"*%d\r\n%b*%d\r\n%b" % (key_count, keys, argument_count, arguments))
    return orjson.dumps(
        {"kind": "settle", "keys": [k.decode() for k in reader.gets()], "args": [a.decode() for a in reader.gets()]}
    )


def hold_record(plan: Plan, event_id: bytes, at_ms: int) -> bytes:
    """A request admitted without Redis."""
    return orjson.dumps(
        {
            "kind": "hold",
            "id": event_id.decode(),
            "at": at_ms,
            "hold": plan.hold(event_id, at_ms).decode(),
            "reservations": plan.reservations,
            "windows": [[window.key, window.length_ms] for window in plan.windows],
            "quotas": [[quota.key, quota.quantity, plan.period_end] for quota in plan.quotas],
            "places": plan.place_keys,
        }
    )


def command(entries: Iterable[Entry]) -> bytes:
    """The call that replays these records. Raises Unreadable."""
    keys: list[str] = []
    arguments: list[str] = []
    for entry in entries:
        more_keys, more_arguments = _told(entry.payload)
        keys += (names.epoch_beside(more_keys[0]), names.applied(more_keys[0]), *more_keys)
        arguments += (entry.spool, str(entry.number), *more_arguments)
    return encode(("EVALSHA", _SHA, str(len(keys)), *keys, *arguments))


def is_readable(entry: Entry) -> bool:
    """True if `command` can tell it."""
    try:
        _told(entry.payload)
    except Unreadable:
        return False
    return True


def _told(payload: bytes) -> tuple[Sequence[str], Sequence[str]]:
    try:
        record: dict[str, Any] = orjson.loads(payload)
        if record["kind"] == "settle":
            return list(record["keys"]), ["s", *record["args"]]
        windows, quotas, places = record["windows"], record["quotas"], record.get("places", ())
        keys = [record["reservations"], *(key for key, _ in windows), *(key for key, _, _ in quotas), *places]
        arguments = ["h", record["id"], record["hold"], str(record["at"])]
        arguments += [str(len(windows)), str(len(quotas)), str(len(places))]
        arguments += [str(length_ms) for _, length_ms in windows]
        for _, quantity, period_end in quotas:
            arguments += (str(quantity), str(period_end))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from None
    return keys, arguments
