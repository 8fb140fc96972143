"""Backup and restore of the whole ledger as one file, as of one moment, without any tool of PostgreSQL's.

A backup is a tar archive: `manifest.json` (when, which migrations, tables with their rows and SHA-256) last, and a
`NAME.csv.zst` per table (CSV with a header, zstd). It is read in one snapshot beside working writers. It holds what the
database holds: hashes of keys and sealed credentials, no text of a key; yet guard it like the database.

A restore goes into an empty, migrated database of the very same migrations, in one transaction: all of it, or nothing.
Afterwards entries that were due, and all that is sealed of usage from before the restore, are compared with Stripe's own
sums before they are sent: what was sent between backup and restore is not known here.

For big ledgers PostgreSQL's own base backups are quicker; this one needs nothing but a connection. Archived months are
files already and not in it. Errors: BackupError, OSError, and those of the connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg

from ledger import sql
from ledger.archive import copy_in, copy_out
from ledger.periods import months_after

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_MEMBER: Final = re.compile(r"[a-z0-9_]+\.csv\.zst|manifest\.json")
_SQL: Final = sql.load("ledger", "backup.sql")
_CREATE: Final = sql.load("ledger", "partitions.sql")["create"]


class BackupError(Exception):
    """A backup cannot be made, or restored; nothing was changed. The message says why."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds: table → rows, as of `made_at`."""

    made_at: datetime
    rows: Mapping[str, int]


async def backup(connection: asyncpg.Connection, path: Path) -> Backup:
    """Write everything to `path`, which must not be there yet. Raises BackupError."""
    if os.path.lexists(path):  # noqa: ASYNC240 - one look at a local disk
        raise BackupError(f"{path} is there already")
    part = path.with_name(path.name + ".part")
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            made = await _write(connection, part)
        os.link(part, path)  # fails if it came to be meanwhile
    except FileExistsError:
        raise BackupError(f"{path} is there already") from None
    finally:
        part.unlink(missing_ok=True)
    return made


async def _write(connection: asyncpg.Connection, part: Path) -> Backup:
    tables: dict[str, dict[str, Any]] = {}
    made_at: datetime = await connection.fetchval("SELECT now()")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for row in await connection.fetch(_SQL["tables"]):
            columns = ", ".join(row["columns"])
            query = f"SELECT {columns} FROM {row['name']}"  # noqa: S608 - names of the catalogue, quoted there
            with tempfile.TemporaryFile(dir=part.parent) as rows:
                await copy_out(connection, query, rows)
                size = rows.tell()
                rows.seek(0)
                digest = await asyncio.to_thread(_digest, rows)
                rows.seek(0)
                entry = tarfile.TarInfo(f"{row['name']}.csv.zst")
                entry.size, entry.mode, entry.mtime = size, 0o600, int(made_at.timestamp())
                await asyncio.to_thread(tar.addfile, entry, rows)
            number = None
            if row["identity"]:
                number = await connection.fetchval(_SQL["next_number"], row["name"], row["identity"])
            tables[row["name"]] = {
                "rows": await connection.fetchval(f"SELECT count(*) FROM {row['name']}"),  # noqa: S608
                "columns": row["columns"],
                "sha256": digest,
                "identity": row["identity"],
                "number": number,
            }
        manifest = {
            "format": FORMAT,
            "made_at": made_at.isoformat(),
            "migrations": [dict(row) for row in await connection.fetch(_SQL["migrations"])],
            "partitions": [row["name"] for row in await connection.fetch(_SQL["partitions"])],
            "tables": tables,
        }
        text = json.dumps(manifest, indent=1).encode()
        entry = tarfile.TarInfo(_MANIFEST)
        entry.size, entry.mode = len(text), 0o600
        with tempfile.TemporaryFile(dir=part.parent) as written:
            written.write(text)
            written.seek(0)
            tar.addfile(entry, written)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Backup(made_at, {name: table["rows"] for name, table in tables.items()})


def _digest(file: Any) -> str:
    found = sha256()
    while data := file.read(1 << 20):
        found.update(data)
    return found.hexdigest()


async def restore(connection: asyncpg.Connection, path: Path) -> Backup:
    """Fill an empty, migrated database from a backup. Raises BackupError."""
    with tempfile.TemporaryDirectory(dir=path.parent if os.access(path.parent, os.W_OK) else None) as scratch:
        manifest = await asyncio.to_thread(_unpack, path, Path(scratch))
        known = [dict(row) for row in await connection.fetch(_SQL["migrations"])]
        if manifest["migrations"] != known:
            raise BackupError(
                "the backup is of another release; restore it with that release, on a database that `tollgate migrate`"
                " of that release made, and upgrade then"
            )
        async with connection.transaction():
            if await connection.fetchval(_SQL["is_used"]):
                raise BackupError("the database is in use; restore into one that `tollgate migrate` has just made")
            await _fill(connection, manifest, Path(scratch))
            made_at = datetime.fromisoformat(manifest["made_at"])
            await connection.execute(_SQL["note_restore"], made_at)
            await connection.execute(_SQL["doubt"])
    return Backup(made_at, {name: table["rows"] for name, table in manifest["tables"].items()})


async def _fill(connection: asyncpg.Connection, manifest: Mapping[str, Any], scratch: Path) -> None:
    present = {row["name"] for row in await connection.fetch(_SQL["partitions"])}
    for name in manifest["partitions"]:
        if name not in present:
            start = datetime.strptime(name, "usage_events_%Y_%m").replace(tzinfo=UTC)
            bounds = {"start": start.isoformat(), "end": months_after(start, 1).isoformat()}
            await connection.execute(_CREATE.format(name=name, **bounds))
    tables = [row["name"] for row in await connection.fetch(_SQL["tables"])]
    if set(tables) != set(manifest["tables"]):
        raise BackupError("the backup has other tables than this release")
    await connection.execute(f"TRUNCATE {', '.join(tables)} CASCADE")
    for name in tables:
        table = manifest["tables"][name]
        await connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER")
        await copy_in(connection, name, [c.strip('"') for c in table["columns"]], scratch / f"{name}.csv.zst")
        await connection.execute(f"ALTER TABLE {name} ENABLE TRIGGER USER")
        if table["number"] is not None:
            await connection.fetchval(_SQL["set_number"], name, table["identity"], table["number"])
        found = await connection.fetchval(f"SELECT count(*) FROM {name}")  # noqa: S608
        if found != table["rows"]:
            raise BackupError(f"{name}: {found} rows came back instead of {table['rows']}")


def _unpack(path: Path, scratch: Path) -> dict[str, Any]:
    """The manifest, once every table's file is in `scratch` and is what it was. Raises BackupError."""
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                contents = tar.extractfile(member)
                if contents is None or not _MEMBER.fullmatch(member.name):
                    raise BackupError(f"{path} is no backup: it holds {member.name!r:.80}")
                with open(scratch / member.name, "xb") as file:
                    shutil.copyfileobj(contents, file)
        manifest: dict[str, Any] = json.loads((scratch / _MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise BackupError(f"{path} is of format {manifest['format']}, this release reads {FORMAT}")
        for name, table in manifest["tables"].items():
            with open(scratch / f"{name}.csv.zst", "rb") as file:
                if _digest(file) != table["sha256"]:
                    raise BackupError(f"{path} is damaged: {name} is not what was written")
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BackupError(f"{path} is no backup, or is damaged: {error}") from None
    return manifest
