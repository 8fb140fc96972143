"""PostgreSQL as the sandbox sees it: a pool that starts without a server, and a schema kept up to date by itself.

Whatever keeps PostgreSQL from answering becomes Unavailable. Bounds: 4 connections and one that listens, 2 s for a free one,
3 s to connect, 5 s a statement. Migrations are files in `migrations/`, applied in order, once, under a lock, when a
connection is first made; they are small and safe beside a running previous release.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Final, cast

import asyncpg

_CONNECTIONS: Final = 4
_ACQUIRE_S: Final = 2.0
_CONNECT_S: Final = 3.0
_STATEMENT_S: Final = 5.0
_WHO: Final = {"application_name": "tollgate-sandbox"}
_LOCK: Final = 0x7476_7362  # of migrations
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_AWAY: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError)


class Unavailable(Exception):
    """PostgreSQL cannot be asked at the moment."""


def statements(filename: str) -> dict[str, str]:
    """The named statements of a file of this package."""
    parts = _NAME.split(resources.files(__package__).joinpath(filename).read_text(encoding="utf-8"))
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


class Database:
    """The pool of one process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to a migrated database. Raises Unavailable, also for what fails inside the block."""
        try:
            pool = self._pool or await self._open()
            async with pool.acquire(timeout=_ACQUIRE_S) as connection:
                yield cast(asyncpg.Connection, connection)
        except _AWAY as error:
            raise Unavailable(type(error).__name__) from error

    @asynccontextmanager
    async def own_connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection outside the pool, for whoever listens on it. Raises Unavailable, as `connection` does."""
        try:
            await (self._pool or await self._open()).fetchval("SELECT 1")
            connection = await asyncpg.connect(
                self._url, timeout=_CONNECT_S, command_timeout=_STATEMENT_S, server_settings=_WHO
            )
            try:
                yield connection
            finally:
                connection.terminate()
        except _AWAY as error:
            raise Unavailable(type(error).__name__) from error

    async def state(self) -> str:
        """`up`, or in a word why not."""
        try:
            async with self.connection() as connection:
                await connection.fetchval("SELECT 1")
        except Unavailable as error:
            return f"down ({error})"
        return "up"

    async def close(self) -> None:
        """Close every connection, without waiting long for any."""
        if self._pool is not None:
            try:
                async with asyncio.timeout(5):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                pool = asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=_CONNECTIONS,
                    timeout=_CONNECT_S,
                    command_timeout=_STATEMENT_S,
                    server_settings=_WHO,
                )
                async with asyncio.timeout(_CONNECT_S + 10 * _STATEMENT_S):
                    await pool
                    try:
                        async with pool.acquire() as connection:
                            await _migrate(cast(asyncpg.Connection, connection))
                    except BaseException:
                        pool.terminate()
                        raise
                self._pool = pool
            return self._pool


async def _migrate(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        await connection.execute("CREATE SCHEMA IF NOT EXISTS sandbox")
        await connection.execute("CREATE TABLE IF NOT EXISTS sandbox.migrations (name text PRIMARY KEY)")
        done = {row["name"] for row in await connection.fetch("SELECT name FROM sandbox.migrations")}
        files = sorted(resources.files(__package__).joinpath("migrations").iterdir(), key=lambda file: file.name)
        for file in files:
            if file.name.endswith(".sql") and file.name not in done:
                await connection.execute(file.read_text(encoding="utf-8"))
                await connection.execute("INSERT INTO sandbox.migrations (name) VALUES ($1)", file.name)
