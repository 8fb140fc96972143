"""Connections to Postgres for commands: bounded in time, their failures told in one line without the password."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from config.redact import redact
from ledger.migrate import MigrationError
from ledger.migrate import migrate as apply_migrations
from tollgate.commands import UserError

_CONNECT_TIMEOUT_S = 10.0


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """One connection, closed at the end. Raises UserError when there is none to be had."""
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_TIMEOUT_S)
    except TimeoutError:
        raise UserError(f"PostgreSQL does not answer within {_CONNECT_TIMEOUT_S:.0f} s ({redact(url)})") from None
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UserError(f"cannot connect to PostgreSQL ({redact(url)}): {redact(str(error))}") from None
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def migrate(url: str) -> list[str]:
    """Bring the database to this release's schema; returns what was applied now. Raises UserError."""
    async with connected(url) as connection:
        try:
            return await apply_migrations(connection)
        except (MigrationError, asyncpg.PostgresError) as error:
            raise UserError(f"migration failed, nothing of it was kept: {error}") from None
