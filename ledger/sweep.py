"""Reservations whose gateway died: found, and turned into usage events of outcome `orphaned`.

A gateway process keeps a sign of life in Redis (`tg:gateway:<name>`, 15 s). A reservation names the process that made it;
when that process was missing in two passes in a row, its reservations are resolved, each in one atomic step, so a gateway
that was only frozen and settles after all makes the same event id twice, which the ledger stores once.

Policy, for what a dead gateway can no longer say:
    charge_estimate  what was held is charged: the upstream may well have done the work (the default)
    release          what was held is given back; the event counts nothing

Errors: `sweep` raises redis.exceptions.RedisError or OSError when Redis is away; the next pass goes on.
"""

from __future__ import annotations

import logging
from importlib import resources
from typing import Any, Final, Literal

import orjson
from redis.asyncio import Redis

from ledger.events import Outcome
from ledger.names import gateway_alive, reservations, usage_stream

Policy = Literal["charge_estimate", "release"]

_PAGE: Final = 500
_IDENTITY: Final = ("id", "at", "project", "mode", "customer", "external", "key", "route", "notes")

log = logging.getLogger(__name__)


class UnreadableReservation(ValueError):
    """A reservation is not what a gateway writes. The message says why."""


LEAVE: Final = ""
"""A correction that leaves a place among what is under way."""


def orphan_of(raw: bytes, policy: Policy) -> tuple[bytes, list[tuple[str, int | str]]]:
    """The event that resolves a reservation, and the corrections to its counters. Raises UnreadableReservation.

    Its places are left whatever the policy: what a dead gateway had under way is over.
    """
    try:
        held: dict[str, Any] = orjson.loads(raw)
        meters: dict[str, int] = held["meters"]
        corrections: list[tuple[str, int | str]] = [(str(key), -int(quantity)) for key, quantity in held["hold"]]
        places: list[tuple[str, int | str]] = [(str(key), LEAVE) for key in held.get("places", ())]
        event: dict[str, Any] = {name: held[name] for name in _IDENTITY if name in held}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableReservation(f"{type(error).__name__}: {error}") from None
    is_charged = policy == "charge_estimate"
    event |= {
        "method": "UNKNOWN",
        "status": 0,
        "outcome": Outcome.ORPHANED.value,
        "meters": meters if is_charged else dict.fromkeys(meters, 0),
        "duration_us": 0,
        "upstream_us": 0,
    }
    return orjson.dumps(event), places if is_charged else corrections + places


class Sweeper:
    """One pass after the other over all shards. Several workers may sweep at once."""

    def __init__(self, client: Redis, shards: int, policy: Policy) -> None:
        self._client = client
        self._shards = shards
        self._policy = policy
        self._missing: set[str] = set()
        script = resources.files("ledger").joinpath("sweep.lua").read_text(encoding="utf-8")
        self._resolve = client.register_script(script)

    async def sweep(self) -> int:
        """One pass; returns how many reservations were resolved."""
        resolved = 0
        alive: dict[str, bool] = {}
        for shard in range(self._shards):
            async for event_id, raw in self._client.hscan_iter(reservations(shard), count=_PAGE):
                gateway = _gateway_of(raw)
                if gateway not in alive:
                    alive[gateway] = bool(await self._client.exists(gateway_alive(gateway)))
                if not alive[gateway] and gateway in self._missing:
                    resolved += await self._put_to_rest(shard, event_id, raw)
        self._missing = {gateway for gateway, is_alive in alive.items() if not is_alive}
        if resolved:
            log.warning("%d reservations of gateways that are gone were resolved (%s)", resolved, self._policy)
        return resolved

    async def _put_to_rest(self, shard: int, event_id: bytes, raw: bytes) -> int:
        try:
            event, corrections = orphan_of(raw, self._policy)
        except UnreadableReservation as error:
            event, corrections = raw, []  # ingest makes it a dead letter, where a person can see it
            log.error("a reservation cannot be read: %s", error)
        keys = [reservations(shard), usage_stream(shard), *(key for key, _ in corrections)]
        return int(await self._resolve(keys=keys, args=[event_id, event, *(delta for _, delta in corrections)]))


def _gateway_of(raw: bytes) -> str:
    try:
        return str(orjson.loads(raw)["gateway"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
