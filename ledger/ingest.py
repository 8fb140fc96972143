"""The Postgres side of ingest: a batch of stream entries becomes rows of the ledger, exactly once.

Algorithm: judge each entry (pure), COPY the good ones into a temporary staging table, and in the same transaction
insert the customers first seen, claim idempotency keys, insert the events that are new, add exactly those to the hourly
and daily rollups and the billing slots (ledger.billing), note when keys were used, and put the bad entries into
`dead_letters`. The caller acknowledges after `store` returned. Storing an entry again, in the same batch, later or by
two workers at once, changes nothing: the primary key of usage_events decides, and the rollups count only what it let in.

How it fails: `store` raises LedgerUnavailable when Postgres is away or not ready; nothing or everything of a batch was
stored, and the caller tries again. When Postgres refuses the data of a batch, the batch is halved until the entry to
blame stands alone and is put aside as a dead letter; one such entry never holds up the others.

A batch is stored in the belief that all of it is new; where that is wrong it is stored again, event by event ignored or
inserted. Rows of the rollups that other writers wait for are locked only while the server works, never while we do.

A writer keeps a temporary table and prepared statements, so it needs a session of its own: a pooler in between must pool
sessions. Figures: `make bench-ingest` (tests/bench/ingest.py), and docs/operating.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import asyncpg
import orjson

from ledger import sql
from ledger.events import InvalidEvent, UsageEvent, decode
from ledger.ids import customer_id_for, unix_ms_of
from ledger.metrics import IngestMetrics
from ledger.names import STREAM_FIELD
from ledger.partitions import ensure_partitions
from ledger.stream import Entry

DAY_MS: Final = 86_400_000
OLDEST_MS: Final = 40 * DAY_MS
"""Older events are dead letters: their period may be billed already. The partitions reach back further."""
FUTURE_MS: Final = 300_000
"""How far ahead of ours a gateway's clock may be."""

_SQL: Final = sql.load("ledger", "ingest.sql")
INSERT_EVENTS: Final = _SQL["insert_events"].format(on_conflict="ON CONFLICT DO NOTHING")
"""Stores what is staged, whatever of it is there already; returns how many events were new."""
_SESSION: Final = (
    _SQL["session"],
    _SQL["staging"],
    f"PREPARE store_new AS {_SQL['insert_events'].format(on_conflict='')}",
    f"PREPARE store_any AS {INSERT_EVENTS}",
    f"PREPARE touch_keys AS {_SQL['touch_keys']}",
)
_COLUMNS: Final = (
    "id", "at_ms", "project_id", "mode", "customer_id", "external_id", "key_id", "route_id",
    "method", "status", "outcome", "meters", "duration_us", "upstream_us", "idem", "notes",
)  # fmt: skip

_EXTERNAL: Final = _COLUMNS.index("external_id")
_IDEM: Final = _COLUMNS.index("idem")

# What Postgres (or the driver, encoding values) says when the data is to blame, whoever sends it and whenever.
_DATA_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    TypeError,
    OverflowError,
)
AWAY_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What using a connection raises when the server is to blame. InternalClientError: it hung up while nothing was asked."""

log = logging.getLogger(__name__)


def brief(error: BaseException) -> str:
    """One line that says what happened, without the rows a server may quote below it."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


class LedgerUnavailable(Exception):
    """Postgres cannot take a batch now. The message names the cause and holds no credential."""


class Poison(StrEnum):
    """Why an entry is a dead letter."""

    NO_EVENT = "no_event"
    """The entry lacks the field that holds the event."""
    INVALID = "invalid"
    """The field is not a usage event."""
    WRONG_ID = "wrong_id"
    """The id was not made when the event says it happened."""
    FUTURE = "future"
    STALE = "stale"
    REFUSED = "refused"
    """Postgres refused it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that is not a usable event. `reason` is for people."""

    entry: Entry
    poison: Poison
    reason: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch, decided: rows in the order of _COLUMNS, and what has to be put aside."""

    rows: list[tuple[Any, ...]]
    dead: list[DeadLetter]


def doubt(event: UsageEvent, now_ms: int) -> tuple[Poison, str] | None:
    """Why a well-formed event cannot be true, or None. `now_ms` is the present in Unix milliseconds."""
    made_ms = unix_ms_of(event.id)
    if abs(made_ms - event.at_ms) > DAY_MS:
        return Poison.WRONG_ID, f"id: made at {made_ms}, more than a day from at {event.at_ms}"
    if event.at_ms > now_ms + FUTURE_MS:
        return Poison.FUTURE, f"at: {event.at_ms - now_ms} ms in the future"
    if event.at_ms < now_ms - OLDEST_MS:
        return Poison.STALE, f"at: {(now_ms - event.at_ms) // DAY_MS} days ago, the limit is 40"
    return None


def judge(entries: Sequence[Entry], now_ms: int) -> Judged:
    """Sort a batch into rows to store and dead letters, believing nothing."""
    rows: list[tuple[Any, ...]] = []
    dead: list[DeadLetter] = []
    for entry in entries:
        raw = entry.fields.get(STREAM_FIELD)
        if raw is None:
            dead.append(DeadLetter(entry, Poison.NO_EVENT, f"no field {STREAM_FIELD.decode()!r}"))
            continue
        try:
            event = decode(raw)
        except InvalidEvent as error:
            dead.append(DeadLetter(entry, Poison.INVALID, str(error)))
            continue
        if problem := doubt(event, now_ms):
            dead.append(DeadLetter(entry, *problem))
            continue
        customer = event.customer
        if customer is None and event.external is not None:
            customer = customer_id_for(event.project, event.mode, event.external)
        rows.append(
            (
                event.id,
                event.at_ms,
                event.project,
                event.mode,
                customer,
                event.external,
                event.key,
                event.route,
                event.method,
                event.status,
                event.outcome,
                orjson.dumps(event.meters).decode(),
                event.duration_us,
                event.upstream_us,
                event.idem,
                None if event.notes is None else orjson.dumps(event.notes).decode(),
            )
        )
    return Judged(rows, dead)


async def insert_rows(connection: asyncpg.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Store judged rows; returns how many were new. The transaction holds the lock of `begin` and has the staging table."""
    await _stage(connection, rows)
    inserted: int = await connection.fetchval(INSERT_EVENTS)
    await connection.execute(_SQL["touch_keys"])
    return inserted


async def _stage(connection: asyncpg.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    await connection.copy_records_to_table("usage_staging", records=rows, columns=_COLUMNS)
    if any(row[_EXTERNAL] is not None for row in rows):
        await connection.execute(_SQL["insert_customers"])
    if any(row[_IDEM] is not None for row in rows):
        await connection.execute(_SQL["claim_idempotency"])


def _payload(entry: Entry) -> bytes:
    raw = entry.fields.get(STREAM_FIELD)
    return repr(dict(entry.fields)).encode() if raw is None else raw


class Writer:
    """The one connection that stores batches. Not safe for use by several tasks at once."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        metrics: IngestMetrics,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._connect = connect
        self._metrics = metrics
        self._now_ms = now_ms
        self._connection: asyncpg.Connection | None = None

    async def store(self, entries: Sequence[Entry]) -> None:
        """Write a batch; afterwards every entry is in the ledger or a dead letter, whatever happened before.

        Raises LedgerUnavailable; then some of the batch may be stored, and storing all of it again is right.
        """
        try:
            connection = await self._connected()
            try:
                await self._write(connection, judge(entries, self._now_ms()))
            except _DATA_ERRORS as error:
                log.warning("a batch of %d entries was refused, looking for the cause: %s", len(entries), brief(error))
                await ensure_partitions(connection, datetime.fromtimestamp(self._now_ms() / 1000, UTC))
                await self._halve(connection, entries)
        except AWAY_ERRORS + _DATA_ERRORS as error:
            await self.close()
            raise LedgerUnavailable(brief(error)) from error

    async def ping(self) -> None:
        """Check that Postgres answers, connecting if need be. Raises LedgerUnavailable."""
        try:
            await (await self._connected()).execute("SELECT 1", timeout=5)
        except AWAY_ERRORS as error:
            await self.close()
            raise LedgerUnavailable(brief(error)) from error

    async def close(self) -> None:
        """Let go of the connection at once; what it was doing is rolled back."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            connection = await self._connect()
            try:
                for statement in _SESSION:
                    await connection.execute(statement)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return self._connection

    async def _write(self, connection: asyncpg.Connection, judged: Judged) -> None:
        """Store a batch, believing at first that all of it is new. Counts only what was committed."""
        began = time.perf_counter()
        try:
            inserted = await self._transact(connection, judged, "store_new")
        except asyncpg.UniqueViolationError:
            inserted = await self._transact(connection, judged, "store_any")
        self._metrics.batch_seconds.observe(time.perf_counter() - began)
        self._metrics.written.inc(inserted)
        self._metrics.duplicates.inc(len(judged.rows) - inserted)
        for letter in judged.dead:
            self._metrics.dead_letters.labels(letter.poison).inc()
        if judged.dead:
            first = judged.dead[0]
            log.warning("%d entries put aside as dead letters, the first: %s", len(judged.dead), first.reason)

    async def _transact(self, connection: asyncpg.Connection, judged: Judged, store: str) -> int:
        """One transaction; returns how many events were new."""
        try:
            await connection.execute(_SQL["begin"])
            if judged.dead:
                await self._bury(connection, judged.dead)
            if not judged.rows:
                await connection.execute("COMMIT")
                return 0
            await _stage(connection, judged.rows)
            await connection.execute(_SQL["finish"].format(store=store))
            inserted: int = await connection.fetchval(_SQL["inserted"])
        except _DATA_ERRORS:
            await connection.execute("ROLLBACK")
            raise
        except BaseException:
            await self.close()  # asking a server that hangs for a ROLLBACK would wait as long as it hangs
            raise
        return inserted

    async def _bury(self, connection: asyncpg.Connection, dead: list[DeadLetter]) -> None:
        await connection.execute(
            _SQL["insert_dead_letters"],
            [letter.entry.stream for letter in dead],
            [letter.entry.id.decode() for letter in dead],
            [_payload(letter.entry) for letter in dead],
            [letter.reason.replace("\0", "\\0")[:500] for letter in dead],
        )

    async def _halve(self, connection: asyncpg.Connection, entries: Sequence[Entry]) -> None:
        """Store what can be stored and put aside what cannot."""
        try:
            await self._write(connection, judge(entries, self._now_ms()))
        except _DATA_ERRORS as error:
            if len(entries) == 1:
                await self._write(connection, Judged([], [DeadLetter(entries[0], Poison.REFUSED, brief(error))]))
            else:
                middle = len(entries) // 2
                await self._halve(connection, entries[:middle])
                await self._halve(connection, entries[middle:])
