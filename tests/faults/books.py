"""What is left when all is quiet again, read past the product's own code, and compared request by request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from ledger import names
from ledger.ids import customer_id_for
from ledger.periods import period_of
from tests.faults.load import Seen
from tests.faults.origin import UNITS
from tests.faults.stack import ESTIMATE, PER_MINUTE, QUOTA, SHARDS, Stack
from tests.support.gateway import PROJECT


@dataclass(slots=True)
class Tally:
    """One round, or the sum of several. `lost`, `doubled`, `over_admitted` and `wrong` must be 0."""

    rounds: int = 0
    requests: int = 0
    answered: int = 0
    refused: int = 0
    broken: int = 0
    orphaned: int = 0
    lost: int = 0
    doubled: int = 0
    over_admitted: int = 0
    over_share: int = 0
    """Beyond a limit on a route with the policy `share`, where processes disagree on whether Redis is there."""
    faults: list[str] = field(default_factory=list)
    """What else does not agree, in words."""

    def add(self, other: Tally) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.over_admitted or self.faults)


async def quiet(stack: Stack, within_s: float = 70.0) -> None:
    """Wait until nothing is under way: no reservation, no entry, no spooled record, all counters known."""
    give_up = time.monotonic() + within_s
    still: dict[str, Any] = {}
    calm = 0
    while calm < 2:
        try:
            async with stack.client() as client:
                shards = range(SHARDS)
                still = {
                    "held": sum([await client.hlen(names.reservations(s)) for s in shards]),
                    "waiting": sum([await client.xlen(names.usage_stream(s)) for s in shards]),
                    "unknown": sum(epoch is None for epoch in await client.mget([names.epoch(s) for s in shards])),
                    "spooled": len(list(stack.spool.glob("*/*.seg"))),
                }
        except Exception as error:  # noqa: BLE001 - whatever is not there yet
            still = {"error": f"{type(error).__name__}: {error}"}
        calm = 0 if any(still.values()) else calm + 1
        if time.monotonic() > give_up:
            raise AssertionError(f"still open after {within_s} s: {still}\n{stack.log()}")
        await asyncio.sleep(0.1)


async def compare(
    stack: Stack, seen: Seen, customers: dict[str, tuple[str, str]], served: Counter[str], was_shifted: bool
) -> Tally:
    """The books of one round. `served` are the requests that reached the origin in it."""
    tally = Tally(rounds=1, requests=seen.sent, answered=len(seen.answered), broken=seen.broken)
    tally.refused = sum(count for status, count in seen.statuses.items() if status)
    ids = {customer_id_for(PROJECT, "live", external): external for external in customers}
    connection = await asyncpg.connect(stack.postgres.url)
    try:
        events = await connection.fetch(
            "SELECT id, at, customer_id, outcome, meters FROM usage_events WHERE customer_id = ANY($1)", list(ids)
        )
        rollups = {
            table: await connection.fetchval(
                f"SELECT coalesce(sum(quantity), 0)::bigint FROM {table} WHERE customer_id = ANY($1) AND meter = 'requests'",
                list(ids),
            )
            for table in ("usage_hourly", "usage_daily")
        }
        dead = await connection.fetch("SELECT reason FROM dead_letters")
        await connection.execute("DELETE FROM dead_letters")
    finally:
        await connection.close(timeout=5)
    charged = Counter({e["id"].hex: orjson.loads(e["meters"]).get("requests", 0) for e in events})
    tally.orphaned = sum(e["outcome"] == "orphaned" for e in events)

    # what was served is charged, once; what is charged was served, or is an orphan
    tally.lost = sum(1 for request in served if not charged[request])
    tally.doubled = sum(count - 1 for count in charged.values() if count > 1)
    tally.doubled += sum(count - 1 for count in served.values() if count > 1)
    unserved = [e for e in events if charged[e["id"].hex] and e["id"].hex not in served and e["outcome"] != "orphaned"]
    if unserved:
        tally.faults.append(f"{len(unserved)} charged requests never reached the origin")
    if missing := [request for request in seen.answered if request not in served]:
        tally.faults.append(f"{len(missing)} answers without a request at the origin")
    unanswered = len(served.keys() - set(seen.answered))
    if unanswered > seen.broken + seen.statuses[502] + seen.statuses[504]:
        tally.faults.append(f"{unanswered} requests were served without an answer, and only {seen.broken} broke off")
    units = {e["id"].hex: orjson.loads(e["meters"]).get("units", 0) for e in events if charged[e["id"].hex]}
    told = {"completed": {UNITS}, "orphaned": {ESTIMATE}}
    if odd := [
        e
        for e in events
        if charged[e["id"].hex] and units[e["id"].hex] not in told.get(e["outcome"], {UNITS, ESTIMATE})
    ]:
        tally.faults.append(f"{len(odd)} events have units that nobody told, such as {dict(odd[0])}")
    total = sum(charged.values())
    for table, quantity in rollups.items():
        if quantity != total:
            tally.faults.append(f"{table} says {quantity}, the events {total}")
    if dead:
        tally.faults.append(f"{len(dead)} dead letters, such as {dead[0]['reason']}")
    await _limits(stack, tally, events, charged, customers, ids, was_shifted)
    return tally


async def _limits(
    stack: Stack,
    tally: Tally,
    events: list[Any],
    charged: Counter[str],
    customers: dict[str, tuple[str, str]],
    ids: dict[str, str],
    was_shifted: bool,
) -> None:
    """No limit was passed, and the counters say what the ledger says."""
    used: Counter[tuple[str, str, datetime]] = Counter()
    times: dict[str, list[float]] = {}
    for e in events:
        for meter in ("requests", "units"):
            used[meter, e["customer_id"], period_of(None, e["at"])[0]] += orjson.loads(e["meters"]).get(meter, 0)
        if charged[e["id"].hex]:
            times.setdefault(e["customer_id"], []).append(e["at"].timestamp())
    async with stack.client() as client:
        for (meter, customer, start), quantity in used.items():
            shard = names.shard_of(PROJECT, customer, SHARDS)
            key = names.quota(shard, f"live:{customer}", meter, int(start.timestamp()))
            counter = await client.get(key)
            if counter is None and start != period_of(None, stack.now())[0]:
                continue  # of a past period: not rebuilt
            if int(counter or 0) != quantity:
                said = f"{int(counter or 0)} {meter}, the ledger {quantity}"
                tally.faults.append(f"the counter of {ids[customer]} says {said}")
            path, plan = customers[ids[customer]]
            if plan == "tight" and meter == "requests":
                _count_beyond(tally, path, quantity, QUOTA)
    for customer, moments in times.items():
        path, plan = customers[ids[customer]]
        if plan == "minute" and not was_shifted:
            moments.sort()
            most = max(sum(first <= at < first + 59.5 for at in moments) for first in moments)
            _count_beyond(tally, path, most, PER_MINUTE)


def _count_beyond(tally: Tally, path: str, count: int, limit: int) -> None:
    beyond = max(0, count - limit)
    if path.startswith("/share/"):
        tally.over_share += beyond
    else:
        tally.over_admitted += beyond


def since(served: Counter[str], before: Counter[str]) -> Counter[str]:
    """What reached the origin after `before` was noted."""
    return served - before
