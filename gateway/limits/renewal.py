"""Renewing what a long request holds: one part is settled, the next is reserved, in one script (renew.lua).

A `Renewal` is sent until Redis has answered: a reply that was lost is asked for again, which changes nothing. It belongs
to the limiter meanwhile, so that a process that stops waits for it; what is left then is resolved by the sweeper.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import hiredis
import orjson

from gateway.limits.calls import prices_of, script_sha
from gateway.limits.decide import UNKNOWN
from gateway.store.redis import encode
from ledger import names

if TYPE_CHECKING:
    from gateway.limits.plan import Plan, Quota
    from gateway.store.redis import RedisPipe

_log = logging.getLogger("gateway.limiter")

RENEW: Final = resources.files("gateway.limits").joinpath("renew.lua").read_text()
_SHA: Final = script_sha(RENEW)
_AGAIN_S: Final = 0.25


class Share(NamedTuple):
    """How much of a quota the next part holds: from `least`, without which it is refused, to `most`."""

    quota: Quota
    least: int
    most: int


class Part(NamedTuple):
    """One part of a long request: the plan it is under, its id, when it began (Unix ms), and where it has a place.

    Its places are those the request was admitted to, whatever plan it is under by now. `of` is the request's id, where this
    is its `number`-th part and not the first.
    """

    plan: Plan
    id: bytes
    at_ms: int
    places: tuple[str, ...] = ()
    of: bytes = b""
    number: int = 0

    def hold(self) -> bytes:
        """The beginning of its reservation, up to what it holds."""
        beginning: dict[str, Any] = {"id": self.id.decode(), "at": self.at_ms, "is_part": True}  # which fills no window
        if self.of:
            beginning["notes"] = {"part_of": self.of.decode(), "part": self.number}
        if self.places:
            beginning["places"] = self.places
        by = orjson.dumps({"gateway": self.plan.gateway})[1:-1]
        return b"%b,%b,%b," % (orjson.dumps(beginning)[:-1], self.plan.identity, by)


Corrections = Sequence[tuple[str, int]]
"""Counters, and what they are to be corrected by."""


def renew_command(
    ending: Part, event: bytes, corrections: Corrections, following: Part, shares: Sequence[Share]
) -> bytes:
    """The call that settles one part, with its event and corrections, and reserves these shares for the next.

    In shadow mode the next part is refused nothing.
    """
    plan, then = ending.plan, following.plan
    keys = [plan.reservations, plan.stream, *(key for key, _ in corrections), *ending.places]
    keys += [*(share.quota.key for share in shares), *(priced.key for priced in then.priced)]
    keys.append(names.epoch_beside(plan.reservations))
    arguments: list[bytes | str | int] = [ending.id, event, len(corrections) + len(ending.places)]
    arguments += [*(delta for _, delta in corrections), *(b"" for _ in ending.places)]
    arguments += [following.id, following.hold(), _held_format([share.quota for share in shares]), len(shares)]
    for share in shares:
        limit = None if then.is_shadow else share.quota.limit
        arguments += [-1 if limit is None else limit, share.least, share.most, then.period_end]
    if then.priced and not then.is_shadow:
        arguments += prices_of(then)
    return encode(("EVALSHA", _SHA, len(keys), *keys, *arguments))


def part_record(part: Part, quotas: Sequence[Quota], held: Sequence[int]) -> bytes:
    """What a part holds, as a record for the spool: for a Redis that has forgotten it."""
    return orjson.dumps(
        {
            "kind": "hold",
            "id": part.id.decode(),
            "at": part.at_ms,
            "hold": part.hold().decode() + _held_format(quotas) % (*held, *held),
            "reservations": part.plan.reservations,
            "windows": [],
            "quotas": [[q.key, quantity, part.plan.period_end] for q, quantity in zip(quotas, held, strict=True)],
            "places": part.places,
        }
    )


def _held_format(quotas: Sequence[Quota]) -> str:
    """The end of a reservation as a format of what it holds, twice (no name or key has a percent sign)."""
    meters = ",".join(f"{orjson.dumps(quota.meter).decode()}:%d" for quota in quotas)
    hold = ",".join(f"[{orjson.dumps(quota.key).decode()},%d]" for quota in quotas)
    return f'"meters":{{{meters}}},"hold":[{hold}]}}'


class Renewal:
    """One renewal under way. `done` is called once, with the script's reply."""

    def __init__(
        self, redis: RedisPipe, under_way: set[Renewal], command: bytes, done: Callable[[list[int]], None]
    ) -> None:
        self._redis = redis
        self._under_way = under_way
        self._command = command
        self._done = done
        self._is_first = True
        under_way.add(self)
        self._send()

    def _send(self) -> None:
        if self._redis.available:
            self._redis.send(self._command, self)
        else:
            self._again()

    def _again(self) -> None:
        asyncio.get_running_loop().call_later(_AGAIN_S, self._send)

    def on_reply(self, reply: Any) -> None:
        # One that may have been carried out before cannot be taken back where the counters are lost: it waits for them.
        if type(reply) is list and (reply[0] != UNKNOWN or self._is_first):
            self._under_way.discard(self)
            self._done(reply)
            return
        self._is_first = False
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT"):
                self._redis.reload_scripts()
            else:
                self._redis.errors += 1
                _log.error("redis refused to renew a reservation, which will be repeated: %s", reply)
        self._again()

    def on_timeout(self) -> None:
        pass  # its reply, or LOST, still comes
