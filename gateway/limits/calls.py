"""The scripts, and the calls of them as bytes (RESP) that are ready but for what a request adds. Pure."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha1
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.store.redis import encode
from ledger import names

if TYPE_CHECKING:
    from gateway.limits.plan import Plan

ID_DIGITS: Final = 32
AT_DIGITS: Final = 13
AT_DIGITS_FROM: Final = 10 ** (AT_DIGITS - 1)
"""Times in Unix ms have 13 digits, from 2001 to 2286."""

ADMIT: Final = resources.files("gateway.limits").joinpath("admit.lua").read_text()
ADMIT_TO_PLACES: Final = (
    resources.files("gateway.limits").joinpath("places.lua").read_text().replace("--admit.lua", ADMIT)
)
"""The admission where something limits how much is under way at once; for all others it costs nothing."""
SETTLE: Final = resources.files("gateway.limits").joinpath("settle.lua").read_text()


def script_sha(script: str) -> bytes:
    """The name EVALSHA knows a script by."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest().encode()


ADMIT_SHA: Final = script_sha(ADMIT)
ADMIT_TO_PLACES_SHA: Final = script_sha(ADMIT_TO_PLACES)


def bulk(data: bytes) -> bytes:
    """One RESP bulk string."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def write_admission(plan: Plan, identity: bytes, hold: bytes, marker: str | None) -> None:
    """Write the admit script's call, as a format; `hold` is what follows the identity in a reservation."""
    keys = [
        plan.reservations,
        *(w.key for w in plan.windows),
        *(q.key for q in plan.quotas),
        *([marker] if marker else []),
        *(p.key for p in plan.priced),
        names.epoch_beside(plan.reservations),
        *plan.place_keys,
    ]
    tail: list[int] = [len(plan.windows), len(plan.quotas), (1 if marker else 0) + (2 if plan.is_shadow else 0)]
    for window in plan.windows:
        tail += (window.limit, window.length_ms)
    for quota in plan.quotas:
        tail += (-1 if quota.limit is None else quota.limit, quota.quantity, plan.period_end)
    prices = prices_of(plan)
    ends = [*(str(place.limit) for place in plan.places), str(len(plan.places))] if plan.places else []
    script = ADMIT_TO_PLACES_SHA if plan.places else ADMIT_SHA
    packed = encode(("EVALSHA", script, str(len(keys)), *keys)).replace(b"%", b"%%")
    head = b"*%d%b" % (3 + len(keys) + 2 + len(tail) + len(prices) + len(ends), packed[packed.index(b"\r\n") :])
    opening = b'{"id":"%b","at":%d,'
    length = len(opening) - len(b"%b%d") + ID_DIGITS + AT_DIGITS + len(identity) + len(hold)
    head += b"$%d\r\n%%b\r\n$%d\r\n%b" % (ID_DIGITS, length, opening)
    rest = b"".join([*(bulk(b"%d" % v) for v in tail), *(bulk(p.encode()) for p in prices + ends)])
    plan.admission = b"%b%b%b\r\n%b" % (head, identity, hold, rest)
    plan.identity_in = _part(len(head), len(identity))
    plan.hold_in = _part(len(head), len(identity) + len(hold))


@lru_cache(4_096)
def _part(start: int, length: int) -> slice:
    return slice(start, start + length)


def json_for_format(value: Any) -> bytes:
    """JSON without a percent sign, which would mean something in a format."""
    return orjson.dumps(value).replace(b"%", b"\\u0025")


def prices_of(plan: Plan) -> list[str]:
    """The spend cap as the scripts take it: number of priced meters, cap, and per meter what is included and its price."""
    if not plan.priced or plan.tier is None:
        return []
    each = [part for priced in plan.priced for part in (str(priced.included), priced.price)]
    return [str(len(plan.priced)), str(plan.tier.spend_cap_minor), *each]
