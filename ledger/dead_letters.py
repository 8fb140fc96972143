"""What was put aside: listed, and tried again once its cause is gone.

Two kinds: entries of the usage streams that were no events the ledger takes (`stream-12`), and billing entries that
Stripe refused or that became too old (`billing-7`). Trying a stream letter again stores its event, once, whatever it was
before; if it is still wrong it stays, with the reason of now. Trying a billing letter again makes a new entry under a
new identifier; one of which Stripe may have the old entry (`ambiguous`, `too_old_in_doubt`) only with `force`, as it may
be billed twice then.

Errors are those of the connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import asyncpg

from ledger import sql
from ledger.ingest import AWAY_ERRORS, brief, insert_rows, judge
from ledger.names import STREAM_FIELD
from ledger.reconcile.repair import replay as replay_entries
from ledger.stream import Entry

Kind = Literal["stream", "billing"]

_ID: Final = re.compile(r"(stream|billing)-(\d{1,18})", re.ASCII)
_SQL: Final = sql.load("ledger", "dead_letters.sql")
_STAGING: Final = sql.load("ledger", "ingest.sql")["staging"]


@dataclass(frozen=True, slots=True)
class Letter:
    """One of them. `id` is what `replay` takes; `excerpt` the beginning of what it holds."""

    id: str
    at: datetime
    reason: str
    source: str
    name: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one: `is_done`, and if not, why."""

    id: str
    is_done: bool
    reason: str = ""


def parsed(letter_id: str) -> tuple[str, int] | None:
    """`stream-12` as ("stream", 12); None for anything else. Pure."""
    match = _ID.fullmatch(letter_id)
    return None if match is None else (match[1], int(match[2]))


async def dead_letters(
    connection: asyncpg.Connection, kind: Kind | None = None, limit: int = 100, *, offset: int = 0
) -> list[Letter]:
    """The newest after the first `offset`, of one kind or both."""
    return [
        Letter(f"{row['kind']}-{row['id']}", row["at"], row["reason"], row["source"], row["name"], row["excerpt"])
        for row in await connection.fetch(_SQL["list"], kind, limit, offset)
    ]


async def replay(
    connection: asyncpg.Connection, ids: Iterable[str], now_ms: int, *, force: bool = False
) -> list[Replayed]:
    """Try them again, each on its own; returns what became of those that are there."""
    wanted = [name for name in map(parsed, ids) if name is not None]
    done = [
        await _store_again(connection, row, now_ms)
        for row in await connection.fetch(_SQL["take"], [number for kind, number in wanted if kind == "stream"])
    ]
    return done + await _bill_again(connection, [number for kind, number in wanted if kind == "billing"], force)


async def _store_again(connection: asyncpg.Connection, row: Any, now_ms: int) -> Replayed:
    name = f"stream-{row['id']}"
    entry = Entry(row["stream"], row["entry_id"].encode(), {STREAM_FIELD: row["payload"]})
    judged = judge([entry], now_ms)
    try:
        async with connection.transaction():
            if judged.dead:
                reason = judged.dead[0].reason.replace("\0", "\\0")[:500]
                await connection.execute(_SQL["say_why"], row["id"], reason)
                return Replayed(name, False, reason)
            await connection.execute(_SQL["lock_billing"])
            await connection.execute(_STAGING)
            await connection.execute("TRUNCATE usage_staging")
            await insert_rows(connection, judged.rows)
            await connection.execute("TRUNCATE usage_staging")
            await connection.execute(_SQL["remove"], row["id"])
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, OverflowError) as error:
        if isinstance(error, AWAY_ERRORS) and not isinstance(error, asyncpg.PostgresError):
            raise
        return Replayed(name, False, brief(error))
    return Replayed(name, True)


async def _bill_again(connection: asyncpg.Connection, entry_ids: Sequence[int], force: bool) -> list[Replayed]:
    doubtful = set()
    if not force:
        doubtful = {row["id"] for row in await connection.fetch(_SQL["doubtful"], list(entry_ids))}
    done = []
    for number in entry_ids:
        if number in doubtful:
            done.append(Replayed(f"billing-{number}", False, "Stripe may have it already; only with force"))
        elif await replay_entries(connection, [number], ["dead"]):
            done.append(Replayed(f"billing-{number}", True))
    return done
