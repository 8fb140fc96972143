"""Results of runs: written behind the reply, found again for some days by whoever ran them; and Idempotency-Keys."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
import zstandard

from sandbox import pieces
from sandbox.nouns import MIB
from sandbox.store.database import Database, Unavailable, statements

_SQL: Final = statements("runs.sql")
MAX_UNWRITTEN: Final = 2_000
_MAX_UNWRITTEN_BYTES: Final = 128 * MIB
_BATCH: Final = 50
_PAUSE_S: Final = 1.0
_SWEEP_S: Final = 600.0
CLAIM_LIFE: Final = timedelta(hours=24)
ABANDONED_AFTER: Final = timedelta(minutes=15)
"""A claim without a result after so long is of a run whose service died: longer than any run and its packages take."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a run is. A `customer` key sees only its customer's runs; `sees_all` are the project's own keys."""

    project: str
    mode: str
    customer: str = ""
    sees_all: bool = True

    def may_see(self, customer: str) -> bool:
        return self.sees_all or (self.customer != "" and customer == self.customer)


@dataclass(frozen=True, slots=True)
class Kept:
    """A result as it is stored: `body` is the reply's JSON, zstd-compressed."""

    id: str
    owner: Owner
    created_at: datetime
    summary: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """Who has an Idempotency-Key: `run`, for a request with this hash."""

    run: str
    is_new: bool
    is_same_request: bool
    is_abandoned: bool


def new_id() -> str:
    """`run_` and 32 hexadecimal digits; later ones sort later (RFC 9562's UUIDv7 without its dashes)."""
    tail = secrets.randbits(80) & 0x0FFF_3FFF_FFFF_FFFF_FFFF | 0x7000_8000_0000_0000_0000
    return f"run_{time.time_ns() // 1_000_000:012x}{tail:020x}"


class Runs:
    """See the package."""

    def __init__(self, database: Database, keep: timedelta) -> None:
        self._database = database
        self._keep = keep
        self._unwritten: OrderedDict[str, Kept] = OrderedDict()
        self._unwritten_bytes = 0
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.dropped = 0

    def open(self) -> None:
        """Start writing and forgetting in the background."""
        self._tasks = [
            asyncio.create_task(self._write(), name="results writer"),
            asyncio.create_task(self._forget(), name="results sweeper"),
        ]

    async def close(self) -> None:
        """Write what can still be written within 5 s, then stop."""
        try:
            async with asyncio.timeout(5):
                while self._unwritten:
                    await self._write_batch()
        except (TimeoutError, Unavailable):
            log.warning("%d results were not written", len(self._unwritten))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def save(self, run: str, owner: Owner, created_at: datetime, document: dict[str, Any]) -> None:
        """Keep a result; it can be found at once."""
        text = await pieces.json(document)
        compress = zstandard.ZstdCompressor(level=1).compress
        body = compress(text) if len(text) <= pieces.PIECE else await asyncio.to_thread(compress, text)
        shown = {name: document[name] for name in ("ok", "exitCode", "reason", "lang", "usage", "createdAt")}
        self._unwritten[run] = Kept(run, owner, created_at, orjson.dumps(shown), body)
        self._unwritten_bytes += len(body)
        while len(self._unwritten) > MAX_UNWRITTEN or self._unwritten_bytes > _MAX_UNWRITTEN_BYTES:
            _, lost = self._unwritten.popitem(last=False)
            self._unwritten_bytes -= len(lost.body)
            self.dropped += 1
        self._arrived.set()

    async def find(self, run: str, owner: Owner) -> dict[str, Any] | None:
        """A result, if it is the owner's. Raises Unavailable."""
        kept = self._unwritten.get(run)
        if kept is not None:
            is_theirs = (kept.owner.project, kept.owner.mode) == (owner.project, owner.mode)
            return await _document(kept.body) if is_theirs and owner.may_see(kept.owner.customer) else None
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_SQL["find"], run, owner.project, owner.mode, self._oldest())
        if row is None or not owner.may_see(row["customer"]):
            return None
        return await _document(row["result"])

    def has_unwritten(self, run: str, owner: Owner) -> bool:
        """True for a result of the owner's that is here and will be in the database in a moment."""
        kept = self._unwritten.get(run)
        return (
            kept is not None
            and (kept.owner.project, kept.owner.mode) == (owner.project, owner.mode)
            and owner.may_see(kept.owner.customer)
        )

    async def page(self, owner: Owner, limit: int, before: str) -> list[dict[str, Any]]:
        """The newest results before an id ("" for the very newest). Raises Unavailable."""
        customer = "" if owner.sees_all else owner.customer
        found = {
            kept.id: orjson.loads(kept.summary)
            for kept in self._unwritten.values()
            if (kept.owner.project, kept.owner.mode) == (owner.project, owner.mode)
            and owner.may_see(kept.owner.customer)
            and (not before or kept.id < before)
        }
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                _SQL["page"], owner.project, owner.mode, customer, before, self._oldest(), limit
            )
        found |= {row["id"]: orjson.loads(row["summary"]) for row in rows}
        return [{"id": run, **found[run]} for run in sorted(found, reverse=True)[:limit]]

    async def claim(self, owner: Owner, key: str, request: bytes, run: str) -> Claim:
        """Take an Idempotency-Key for a run, or learn who has it. Raises Unavailable."""
        who = (owner.project, owner.mode, owner.customer, key)
        async with self._database.connection() as connection:
            for _ in range(3):
                if await connection.fetchval(_SQL["claim"], *who, request, run, CLAIM_LIFE) is not None:
                    return Claim(run, is_new=True, is_same_request=True, is_abandoned=False)
                row = await connection.fetchrow(_SQL["claimed"], *who)
                if row is not None:  # else it was given back meanwhile
                    age = datetime.now(UTC) - row["created_at"]
                    is_same = bytes(row["request"]) == request
                    return Claim(row["run"], False, is_same, is_abandoned=age > ABANDONED_AFTER)
        raise Unavailable("an Idempotency-Key changes hands too quickly")

    async def unclaim(self, owner: Owner, key: str, run: str) -> None:
        """Give a key back whose run never happened. Raises Unavailable."""
        async with self._database.connection() as connection:
            await connection.execute(_SQL["unclaim"], owner.project, owner.mode, owner.customer, key, run)

    def _oldest(self) -> datetime:
        return datetime.now(UTC) - self._keep

    async def _write(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            try:
                while self._unwritten:
                    await self._write_batch()
            except Unavailable as error:
                log.warning("results cannot be written at the moment: %s", error)
                await asyncio.sleep(_PAUSE_S)
                self._arrived.set()

    async def _write_batch(self) -> None:
        batch = list(self._unwritten.values())[:_BATCH]
        rows = [
            (k.id, k.owner.project, k.owner.mode, k.owner.customer, k.created_at, k.summary.decode(), k.body)
            for k in batch
        ]
        async with self._database.connection() as connection:
            await connection.executemany(_SQL["save"], rows)
        for kept in batch:
            if self._unwritten.pop(kept.id, None) is not None:
                self._unwritten_bytes -= len(kept.body)

    async def _forget(self) -> None:
        while True:
            try:
                async with self._database.connection() as connection:
                    while (await connection.execute(_SQL["forget_runs"], self._oldest())).endswith(" 1000"):
                        pass
                    await connection.execute(_SQL["forget_claims"], datetime.now(UTC) - CLAIM_LIFE)
            except Unavailable:
                pass  # said by the writer already, if it matters
            await asyncio.sleep(_SWEEP_S)


async def _document(body: bytes) -> dict[str, Any]:
    decompress = zstandard.ZstdDecompressor().decompress
    text = decompress(body) if len(body) <= pieces.PIECE else await asyncio.to_thread(decompress, body)
    document: dict[str, Any] = orjson.loads(text)
    return document
