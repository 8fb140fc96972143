"""Counters that Redis lost are rebuilt here, to the exact figure, from the ledger and from what is on its way to it.

A shard's counters are complete while its *epoch* is there (ledger.names). It goes with the data (FLUSHALL, an empty
replica), and `arrive.lua` removes it when Redis turns out to be another process than before, which may lack what was
acknowledged last. Without it the admission script answers "unknown" and each route's policy rules.

One *pass* of the healer:
1. a token in `tg:heal` asks every living gateway to report: it puts what it holds open, what it sent in the last seconds
   and what it has spooled into Redis again, in this order, and then its name into the token's set;
2. when all have reported, what is on the streams up to then is waited for until it is in the ledger;
3. with writers kept out of the ledger, its sums of the running periods, the entries on the stream that it does not have
   and the open reservations are added up; one script per shard puts the counters in place and sets the epoch, unless a
   reservation or an entry has changed meanwhile (then both are read again).

Nothing is counted twice, since facts are told apart by event id; nothing is missed, since a fact is in at least one of the
three. A gateway that nobody has heard of for `_ALIVE_S` is not waited for: it tells what it holds when it is back.

How it fails: PostgreSQL or Redis away, a gateway that does not report, a backlog that does not drain: the pass ends without
effect and the next one begins (`Healer.look` says so by HealingFailed); the shards stay unknown meanwhile. Several workers
may look at once; the token lets one of them work.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ledger import names, sql
from ledger.names import STREAM_FIELD
from ledger.periods import CALENDAR
from ledger.recount import BURST_MS, WINDOW_MS, Held, Recount, event_of, held_of, last_periods

_SQL: Final = sql.load("ledger", "heal.sql")
_ALIVE_S: Final = 8.0
_GRACE_S: Final = 2.5
"""A healer that is younger than _ALIVE_S does not know who was there; gateways enter themselves once a second."""
_REPORT_S: Final = 20.0
_DRAIN_S: Final = 10.0
_TOKEN_S: Final = 5
_LOCK_MS: Final = 5_000
_TRIES: Final = 50
_SKEW: Final = timedelta(minutes=10)
_HOUR: Final = timedelta(hours=1)

log = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[asyncpg.Connection]]


class HealingFailed(Exception):
    """A pass ended without effect. The message says why; the next look tries again."""


class Healer:
    """Looks for shards whose counters are lost, and rebuilds them. One per worker process."""

    def __init__(self, client: Redis, connect: Connect, shards: int, now: Callable[[], float] = time.time) -> None:
        self._client: Any = client
        self._connect = connect
        self._shards = shards
        self._now = now
        self._born = time.monotonic()
        self._known: dict[str, float] = {}
        folder = resources.files("ledger")
        self._arrive = client.register_script(folder.joinpath("arrive.lua").read_text(encoding="utf-8"))
        self._commit = client.register_script(folder.joinpath("heal.lua").read_text(encoding="utf-8"))

    async def look(self) -> int:
        """One look; returns how many shards were healed. Raises HealingFailed, RedisError or OSError."""
        epochs = [names.epoch(shard) for shard in range(self._shards)]
        async with asyncio.timeout(_DRAIN_S):
            run: bytes = await self._arrive(keys=[names.RUN, *epochs])
            present = await self._client.mget(epochs)
            await self._note_gateways()
        lost = [shard for shard, epoch in enumerate(present) if epoch is None]
        if not lost:
            return 0
        token = secrets.token_hex(8)
        if not await self._client.set(names.HEAL, token, nx=True, ex=_TOKEN_S):
            return 0  # another worker is at it, or one that died: its token expires
        began = time.monotonic()
        log.warning("the counters of %d shards are unknown and will be rebuilt from the ledger", len(lost))
        try:
            async with asyncio.timeout(_REPORT_S + _DRAIN_S + 30):
                connection = await self._connect()
                try:
                    await self._reports(connection, token, began)
                    await self._drained(lost, token)
                    await self._rebuild(connection, lost, token, run)
                finally:
                    connection.terminate()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise HealingFailed(f"{type(error).__name__}: {error}") from error
        except TimeoutError:
            raise HealingFailed("it took too long") from None
        finally:
            try:
                await self._client.delete(names.HEAL)
            except (RedisError, OSError):
                pass  # it expires
        log.warning("the counters of %d shards are exact again, after %.1f s", len(lost), time.monotonic() - began)
        return len(lost)

    # -- 1: who must report

    async def _note_gateways(self) -> set[str]:
        """The gateways that live, as far as anybody knows."""
        now, here = time.monotonic(), time.time()
        for name in await self._client.zrangebyscore(names.GATEWAYS, here - _ALIVE_S, "+inf"):
            self._known[name.decode()] = now
        self._known = {name: seen for name, seen in self._known.items() if now - seen < _ALIVE_S}
        return set(self._known)

    async def _reports(self, connection: asyncpg.Connection, token: str, began: float) -> None:
        grace = _GRACE_S if time.monotonic() - self._born < _ALIVE_S else 0.0
        if not self._known and await connection.fetchval(_SQL["is_empty"]):
            grace = 0.0  # nothing was ever counted
        while True:
            missing = await self._note_gateways()
            missing -= {name.decode() for name in await self._client.smembers(names.reports(token))}
            waited = time.monotonic() - began
            if not missing and waited >= grace:
                return
            if waited > _REPORT_S:
                raise HealingFailed(f"{len(missing)} gateways did not report, such as {min(missing, default='none')}")
            await self._go_on(token)

    async def _go_on(self, token: str) -> None:
        """Wait a little, and keep the pass alive."""
        await asyncio.sleep(0.05)
        if await self._client.get(names.HEAL) != token.encode():
            raise HealingFailed("Redis lost the pass itself")
        await self._client.expire(names.HEAL, _TOKEN_S)

    # -- 2: what is on its way

    async def _drained(self, lost: list[int], token: str) -> None:
        marks = {}
        for shard in lost:
            last = await self._client.xrevrange(names.usage_stream(shard), count=1)
            if last:
                marks[shard] = _number(last[0][0])
        give_up = time.monotonic() + _DRAIN_S
        while marks:
            for shard, mark in tuple(marks.items()):
                first = await self._client.xrange(names.usage_stream(shard), count=1)
                if not first or _number(first[0][0]) > mark:
                    del marks[shard]
            if marks:
                if time.monotonic() > give_up:
                    raise HealingFailed(f"{len(marks)} streams did not drain")
                await self._go_on(token)

    # -- 3: adding up

    async def _rebuild(self, connection: asyncpg.Connection, lost: list[int], token: str, run: bytes) -> None:
        now = datetime.fromtimestamp(self._now(), UTC)
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}")
            await connection.execute("SET LOCAL statement_timeout = 25000")
            await connection.execute("SET LOCAL work_mem = '128MB'")  # adds up in memory instead of sorting on disk
            await connection.execute(_SQL["lock"])
            anchors = {
                (r["project_id"], r["mode"], r["customer_id"]): r["anchor_at"]
                for r in await connection.fetch(_SQL["anchors"])
            }
            limited = {r["id"] for r in await connection.fetch(_SQL["limited"])}
            by_customer = {customer: anchor for (_, _, customer), anchor in anchors.items()}
            facts = await _facts(connection, anchors, now)
            since_ms = int(now.timestamp() * 1000) - (BURST_MS if "burst" in limited else WINDOW_MS)
            lately = await connection.fetch(_SQL["lately"], datetime.fromtimestamp(since_ms / 1000, UTC))
            base = Recount(self._shards, set(lost), by_customer, limited)
            for project, mode, customer, meter, quantity, at in facts:
                base.used(project, mode, customer, meter, quantity, at)
            for r in lately:
                base.admitted(r["project_id"], r["customer_id"], r["key_id"], r["route_id"], r["at_ms"])
            for shard in lost:
                for _ in range(_TRIES):
                    if await self._finish(connection, shard, base, since_ms, token, run):
                        break
                else:
                    raise HealingFailed(f"shard {shard} does not hold still")

    async def _finish(
        self, connection: asyncpg.Connection, shard: int, base: Recount, since_ms: int, token: str, run: bytes
    ) -> bool:
        """Add what the ledger does not have to `base` and put it in place; False if something changed meanwhile."""
        held_raw = await self._client.hgetall(names.reservations(shard))
        entries = await self._client.xrange(names.usage_stream(shard))
        events = {e.id: e for e in (event_of(fields.get(STREAM_FIELD, b"")) for _, fields in entries) if e is not None}
        held = {h.id: h for h in map(held_of, held_raw.values()) if h is not None}
        stored = await _stored(connection, [(e.project, e.at_ms, e.id) for e in events.values()] + _keys_of(held))
        count = Recount(base.shards, base.wanted, base.anchors, base.limited)
        count.counters[shard] = dict(base.counters[shard])
        count.windows[shard] = {name: list(times) for name, times in base.windows[shard].items()}
        for event in events.values():
            if event.id not in stored:
                count.happened(event, since_ms)
        for one in held.values():
            if (number := _uuid(one.id)) not in stored and number not in events:
                count.holds(shard, one, since_ms)
        quotas, windows = count.counters[shard], count.windows[shard]
        kept = {*quotas, *windows}
        stale = [name async for name in self._names_of(shard) if name not in kept]
        last = entries[-1][0] if entries else b""
        arguments: list[Any] = [token, len(held_raw), last, len(quotas), len(windows), run]
        for counter in quotas.values():
            arguments += counter
        for times in windows.values():
            arguments += (len(times), *sorted(times))
        keys = [names.epoch(shard), names.reservations(shard), names.usage_stream(shard), *quotas, *windows, *stale]
        outcome = await self._commit(keys=keys, args=arguments)
        if outcome < 0:
            raise HealingFailed("Redis was restarted meanwhile")
        return bool(outcome)

    async def _names_of(self, shard: int) -> Any:
        """The counters and windows that are there, right or wrong."""
        for pattern in (names.quota(shard, "*", "*", 0)[:-1] + "*", names.window(shard, "*")):
            async for key in self._client.scan_iter(pattern, count=1000):
                yield key.decode()


async def _facts(
    connection: asyncpg.Connection, anchors: dict[tuple[str, str, str], datetime], now: datetime
) -> list[tuple[str, str, str | None, str, int, datetime]]:
    """What was used in the running periods: project, mode, customer, meter, quantity, a moment in the period."""
    facts = []
    for start, end in last_periods(CALENDAR, now, now - _SKEW):
        for r in await connection.fetch(_SQL["calendar_usage"], start, end):
            customer = r["customer_id"] or None
            facts.append((r["project_id"], r["mode"], customer, r["meter"], r["quantity"], start))
    periods: list[tuple[Any, ...]] = []
    for (project, mode, customer), anchor in anchors.items():
        for start, end in last_periods(anchor, now, now - _SKEW):
            first = start if start == _whole(start) else _whole(start) + _HOUR
            periods.append((project, mode, customer, start, first, _whole(end), end))
    if periods:
        for r in await connection.fetch(
            _SQL["anchored_usage"], *(list(column) for column in zip(*periods, strict=True))
        ):
            fact = (r["project_id"], r["mode"], r["customer_id"], r["meter"], r["quantity"], r["start_at"])
            facts.append(fact)
    return facts


async def _stored(connection: asyncpg.Connection, events: list[tuple[str, int, uuid.UUID]]) -> set[uuid.UUID]:
    """Those of these events that are in the ledger."""
    if not events:
        return set()
    projects, times, ids = zip(*events, strict=True)
    moments = [datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at) for at in times]
    return {r["id"] for r in await connection.fetch(_SQL["stored"], list(projects), moments, list(ids))}


def _keys_of(held: dict[str, Held]) -> list[tuple[str, int, uuid.UUID]]:
    return [(h.project, h.at_ms, number) for h in held.values() if (number := _uuid(h.id)) is not None]


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(hex=text)
    except ValueError:
        return None


def _whole(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _number(entry_id: bytes) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence)
