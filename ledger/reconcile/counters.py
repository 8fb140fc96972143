"""Quota counters in Redis against the ledger: used + held = stored + on the stream + reserved.

A correction is not given back to the counter, unless the counter is rebuilt or put right afterwards. So a counter may lack
all corrections made since some moment, and no other: such a difference is none.

Counters move while they are looked at, so a difference counts only if it is there, the same, in two looks. A shard whose
counters are being rebuilt (ledger/heal.py: it has no epoch) is left alone. Errors are those of Redis (RedisError, OSError)
and of the connection.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final

import asyncpg
import orjson
from redis.asyncio import Redis

from ledger import names, sql
from ledger.periods import period_of
from ledger.reconcile.figures import CounterDrift

LOOKS_APART_S: Final = 0.5
_PAGE: Final = 1_000
_KEY: Final = re.compile(r"tg:\{(\d\d)\}:quota:(live|test):([^:]+):([^:]+):(\d+)")
_SQL: Final = sql.load("ledger.reconcile", "figures.sql")


async def drifting(
    client: Redis, connection: asyncpg.Connection, shards: int, project_id: str | None
) -> list[CounterDrift]:
    """The counters that differ, in both of two looks by the same amount."""
    first = await _look(client, connection, shards, project_id)
    if not first:
        return []
    await asyncio.sleep(LOOKS_APART_S)
    second = {one.key: one for one in await _look(client, connection, shards, project_id)}
    return [second[one.key] for one in first if one.key in second and second[one.key].units == one.units]


async def _look(client: Any, connection: asyncpg.Connection, shards: int, project_id: str | None) -> list[CounterDrift]:
    counters: dict[str, tuple[re.Match[str], int]] = {}
    for shard in range(shards):
        if not await client.exists(names.epoch(shard)):
            continue
        keys = [key async for key in client.scan_iter(match=f"tg:{{{shard:02d}}}:quota:*", count=_PAGE)]
        for at in range(0, len(keys), _PAGE):
            page = keys[at : at + _PAGE]
            for key, value in zip(page, await client.mget(page), strict=True):
                if value is not None and (match := _KEY.fullmatch(key.decode())):
                    counters[key.decode()] = (match, int(value))
    in_flight = await _in_flight(client, shards)
    owners: dict[str, Any] = {
        row["owner"]: row
        for row in await connection.fetch(_SQL["owners"], list({match[3] for match, _ in counters.values()}))
    }
    found = []
    for key, (match, value) in counters.items():
        mode, owner, meter, period = match[2], match[3], match[4], int(match[5])
        row = owners.get(owner)
        if row is None or project_id not in (None, row["project_id"]):
            continue  # an owner that was deleted, or one that is not asked about
        start = datetime.fromtimestamp(period, UTC)
        end = period_of(row["anchor_at"], start)[1]
        customer = None if owner == row["project_id"] else owner
        what = (row["project_id"], mode, customer, meter, start, end)
        used = int(await connection.fetchval(_SQL["used_since"], *what))
        drift = CounterDrift(key, row["project_id"], mode, owner, meter, value, used, in_flight[key])
        if drift.units:
            made = [int(one["quantity"]) for one in await connection.fetch(_SQL["corrections_since"], *what)]
            if not is_explained(drift.units, made):
                found.append(drift)
    return found


def is_explained(units: int, corrections: Sequence[int]) -> bool:
    """True if a counter that is `units` above the ledger lacks just the last of these corrections (the last first). Pure."""
    return any(units == -since for since in accumulate(corrections))


async def _in_flight(client: Any, shards: int) -> Counter[str]:
    """What reservations hold, and what is on the streams, by counter."""
    held: Counter[str] = Counter()
    for shard in range(shards):
        async for _, raw in client.hscan_iter(names.reservations(shard), count=_PAGE):
            try:
                for key, quantity in orjson.loads(raw)["hold"]:
                    held[str(key)] += int(quantity)
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # the sweeper makes it a dead letter
        for _, fields in await client.xrange(names.usage_stream(shard)):
            try:
                event = orjson.loads(fields[names.STREAM_FIELD])
                owner = event["customer"] or event["project"]
                prefix = f"tg:{{{shard:02d}}}:quota:{event['mode']}:{owner}"
                for meter, quantity in event["meters"].items():
                    held[f"{prefix}:{meter}"] += int(quantity)
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                continue  # ingest makes it a dead letter
    for key in [key for key in held if key.count(":") == 5]:  # of the stream: of whichever period the counter is
        amount = held.pop(key)
        async for counter in client.scan_iter(match=f"{key}:*", count=_PAGE):
            held[counter.decode()] += amount
            break
    return held


async def put_right(client: Redis, drifts: list[CounterDrift]) -> list[str]:
    """Correct counters that are still there; returns what was done."""
    done = []
    for one in drifts:
        if await client.exists(one.key):
            await client.incrby(one.key, -one.units)
            done.append(f"counter of {one.owner} for {one.meter}: {-one.units:+d}")
    return done
