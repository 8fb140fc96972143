"""Forward-only migrations: numbered .sql files, each applied once, in order, in a transaction of its own.

Files are `NNNN_name.sql` beside this module in migrations/. `schema_migrations` records each with its SHA-256; a file
that was changed after it was applied is an error, never silently skipped. Concurrent runs wait for each other on an
advisory lock. See docs/adr/0003 for why this is forty lines and not a framework.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Final

import asyncpg

_LOCK: Final = 7240318800
_FILENAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class MigrationError(Exception):
    """The database and the migration files disagree. The message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `version` is its four digits, `checksum` the SHA-256 of its bytes in hexadecimal."""

    version: int
    name: str
    sql: str
    checksum: str


def migrations() -> list[Migration]:
    """All migrations of this release, oldest first."""
    found = []
    for entry in resources.files("ledger").joinpath("migrations").iterdir():
        if match := _FILENAME.fullmatch(entry.name):
            sql = entry.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), entry.name, sql, sha256(sql.encode()).hexdigest()))
    found.sort(key=lambda m: m.version)
    return found


async def migrate(connection: asyncpg.Connection) -> list[str]:
    """Bring the database to this release's schema; returns the names of what was applied now.

    Raises MigrationError if an applied migration was edited or is unknown to this release (a newer one ran before).
    """
    known = migrations()
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            " version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = await connection.fetch("SELECT version, name, checksum FROM schema_migrations")
        applied = {row["version"]: row for row in rows}
        by_version = {m.version: m for m in known}
        for version, row in sorted(applied.items()):
            if version not in by_version:
                raise MigrationError(f"{row['name']} was applied by a newer release; upgrade before starting this one")
            if by_version[version].checksum != row["checksum"]:
                raise MigrationError(f"{row['name']} was changed after it was applied; restore the file")
        fresh = [m for m in known if m.version not in applied]
        for migration in fresh:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                )
        return [m.name for m in fresh]
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
