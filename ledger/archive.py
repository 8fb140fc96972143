"""Retention: months of events that are old enough become compressed files; rollups and billing stay as they are.

A month is archived only if the daily rollup says exactly what its events say, and nothing of it waits to be billed. Its
events are written to `usage_events_YYYY_MM.csv.zst` (CSV with a header, zstd), the file is read back and counted, and
only then the partition is dropped, in the transaction that notes the archive; the table is locked against writers
meanwhile. A crash at any moment leaves the events in the table or in the file, or in both. `bring_back` is the way back.

What an archived month cannot do any more: receipts and corrections of its events, and sums over parts of its hours.

Errors: NotArchived, OSError of the directory, and those of the connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

import asyncpg
import zstandard

from ledger import sql
from ledger.partitions import months
from ledger.periods import months_after

LEAST_MONTHS: Final = 3
"""Events of the past 40 days may still come, and quotas and bills of the month before may still be looked into."""
_LOCK: Final = 7240318806
_READ_BYTES: Final = 1 << 20
_SQL: Final = sql.load("ledger", "archive.sql")
_CREATE: Final = sql.load("ledger", "partitions.sql")["create"]

log = logging.getLogger(__name__)


class NotArchived(Exception):
    """A month could not be archived or brought back; everything is as before. The message says why."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A month in a file. `events` is the number of rows, `sha256` that of the file, in hexadecimal."""

    name: str
    starts_at: datetime
    ends_at: datetime
    path: Path
    events: int
    sha256: str


def due(attached: list[str], now: datetime, after_months: int) -> list[tuple[str, datetime, datetime]]:
    """The partitions that ended `after_months` months ago or earlier: (name, start, end), oldest first. Pure."""
    this_month = months(now, 0, 0)[0][0]
    horizon = months_after(this_month, -max(after_months, LEAST_MONTHS))
    found = []
    for name in sorted(attached):
        start = datetime.strptime(name, "usage_events_%Y_%m").replace(tzinfo=UTC)
        end = months_after(start, 1)
        if end <= horizon:
            found.append((name, start, end))
    return found


async def archive_due(
    connection: asyncpg.Connection, directory: Path, now: datetime, after_months: int
) -> list[Archive]:
    """Archive every month that is due; one that cannot be is logged and left for next time."""
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        return []
    done = []
    attached = [row["name"] for row in await connection.fetch(_SQL["attached"])]
    for name, start, end in due(attached, now, after_months):
        try:
            done.append(await archive(connection, directory, name, start, end))
        except NotArchived as error:
            log.error("%s is not archived: %s", name, error)
    await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)  # where this fails, it goes with the connection
    return done


async def archive(
    connection: asyncpg.Connection, directory: Path, name: str, start: datetime, end: datetime
) -> Archive:
    """Move one month from its partition to a file. Raises NotArchived."""
    path = directory / f"{name}.csv.zst"
    part = path.with_suffix(".part")
    try:
        async with connection.transaction():
            await connection.execute(_SQL["lock"].format(name=name))
            if differing := await connection.fetchval(
                _SQL["rollup_differs"].format(name=name), start.date(), end.date()
            ):
                raise NotArchived(f"the daily rollup differs from the events in {differing} rows; reconcile first")
            if unsettled := await connection.fetchval(_SQL["unsettled"], start, end):
                raise NotArchived(f"{unsettled} billing slots of it are not settled yet")
            query = f"SELECT * FROM {name} ORDER BY project_id, at, id"  # noqa: S608 - made from a year and a month
            await _write(connection, query, part)
            events = await connection.fetchval(f"SELECT count(*) FROM {name}")  # noqa: S608
            digest, lines = await asyncio.to_thread(_read_back, part)
            if lines - 1 != events:
                raise NotArchived(f"the file holds {lines - 1} events instead of {events}")
            await asyncio.to_thread(_put_in_place, part, path)
            await connection.execute(_SQL["detach"].format(name=name))
            await connection.execute(_SQL["drop"].format(name=name))
            made = Archive(name, start, end, path, events, digest)
            await connection.execute(_SQL["note"], name, start, end, str(path), events, digest)
    finally:
        part.unlink(missing_ok=True)
    log.info("%s is archived: %d events in %s", name, events, path)
    return made


async def archives(connection: asyncpg.Connection) -> list[Archive]:
    """All months that live in files, oldest first."""
    return [_archive(row) for row in await connection.fetch(_SQL["list"])]


async def bring_back(connection: asyncpg.Connection, name: str) -> Archive:
    """Make an archived month a partition again; its file stays. Raises NotArchived."""
    row = await connection.fetchrow(_SQL["one"], name)
    if row is None:
        raise NotArchived(f"there is no archive {name}")
    found = _archive(row)
    digest, _ = await asyncio.to_thread(_read_back, found.path)
    if digest != found.sha256:
        raise NotArchived(f"{found.path} is not the file that was written: its SHA-256 differs")
    async with connection.transaction():
        bounds = {"start": found.starts_at.isoformat(), "end": found.ends_at.isoformat()}
        await connection.execute(_CREATE.format(name=name, **bounds))
        columns = (await asyncio.to_thread(_header, found.path)).split(",")
        await copy_in(connection, name, columns, found.path)
        if await connection.fetchval(f"SELECT count(*) FROM {name}") != found.events:  # noqa: S608
            raise NotArchived("not every event came back")
        await connection.execute(_SQL["forget"], name)
    return found


async def _write(connection: asyncpg.Connection, query: str, path: Path) -> None:
    """The rows of a query as compressed CSV, on disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:  # noqa: ASYNC230 - it is only opened here
        os.chmod(path, 0o600)
        await copy_out(connection, query, file)
        await asyncio.to_thread(_sync, file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


async def copy_out(connection: asyncpg.Connection, query: str, file: BinaryIO) -> None:
    """The rows of a query into an open file: CSV with a header, zstd.

    Compressed in a thread of its own, so that what else the process does goes on; nothing touches the file afterwards.
    Broken off, it takes the connection with it.
    """
    loop, compressor = asyncio.get_running_loop(), zstandard.ZstdCompressor(level=6, write_checksum=True)
    compressed = compressor.stream_writer(file, closefd=False)
    with ThreadPoolExecutor(1, "compress") as thread:  # whose end waits for the piece in hand

        async def take(data: bytes) -> None:
            await loop.run_in_executor(thread, compressed.write, data)

        try:
            await connection.copy_from_query(query, output=take, format="csv", header=True, timeout=3600)
        except BaseException:
            connection.terminate()  # one that is broken off while a piece is taken would wait for itself for ever
            raise
        await loop.run_in_executor(thread, compressed.close)


async def copy_in(connection: asyncpg.Connection, table: str, columns: list[str], path: Path) -> None:
    """The rows of such a file into a table, expanded in a thread."""
    loop = asyncio.get_running_loop()
    with open(path, "rb") as file, ThreadPoolExecutor(1, "expand") as thread:  # noqa: ASYNC230
        reader: Any = zstandard.ZstdDecompressor().stream_reader(file)

        async def rows() -> AsyncIterator[bytes]:
            while data := await loop.run_in_executor(thread, reader.read, _READ_BYTES):
                yield data

        await connection.copy_to_table(table, source=rows(), columns=columns, format="csv", header=True, timeout=3600)


def _read_back(path: Path) -> tuple[str, int]:
    """The file's SHA-256 and the number of CSV records in it. Raises NotArchived if it cannot be read."""
    digest, quotes, records, last = sha256(), 0, 0, b""
    try:
        with open(path, "rb") as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
        with open(path, "rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file)
            while data := reader.read(_READ_BYTES):
                for line in data.splitlines(keepends=True):
                    quotes += line.count(b'"')
                    records += line.endswith(b"\n") and not quotes % 2
                last = data
    except (OSError, zstandard.ZstdError) as error:
        raise NotArchived(f"{path} cannot be read: {error}") from None
    if last and not last.endswith(b"\n"):
        raise NotArchived(f"{path} ends in the middle of a line")
    return digest.hexdigest(), records


def _header(path: Path) -> str:
    with open(path, "rb") as file:
        return bytes(zstandard.ZstdDecompressor().stream_reader(file).read(65_536)).split(b"\n", 1)[0].decode()


def _put_in_place(part: Path, path: Path) -> None:
    os.replace(part, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _archive(row: Any) -> Archive:
    return Archive(row["name"], row["starts_at"], row["ends_at"], Path(row["path"]), row["events"], row["sha256"])
