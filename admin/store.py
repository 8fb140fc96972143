"""Postgres as admin sees it: a pool that starts without a server, deadlines, one way in to read and one to write.

`writing` is a transaction that takes the lock of the control tables first. Their triggers take it anyway, to hand out
revisions in commit order; taking it before anything is read makes every read-then-write exact and deadlocks between
writers impossible. Control writes are rare and short, so one at a time is enough.

How it fails: whatever keeps Postgres from answering becomes `StoreUnavailable`, with a public reason that names no host
and no user. Bounds: 8 connections; 2 s for a free one, 3 s to connect, 5 s for a statement, 3 s for a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import asyncpg

from ledger import migrate, sql
from ledger.dependency import Dependency
from ledger.vault import Vault

_SQL = sql.load("admin", "store.sql")

log = logging.getLogger(__name__)

_CONNECTIONS: Final = 8
_ACQUIRE_S: Final = 2.0
_CONNECT_S: Final = 3.0
_STATEMENT_S: Final = 5.0
_IDLE_S: Final = 60.0
_SERVER_SETTINGS: Final = {
    "application_name": "tollgate-admin",
    "statement_timeout": "5000",
    "lock_timeout": "3000",
    "idle_in_transaction_session_timeout": "15000",
}

_BUSY: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)
_AWAY: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError)
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "refuses the credentials"),
    (asyncpg.InvalidCatalogNameError, "the database does not exist"),
    (asyncpg.TooManyConnectionsError, "has no connection left"),
    (asyncpg.CannotConnectNowError, "is starting or stopping"),
    (asyncpg.UndefinedTableError, "is not migrated"),
    (asyncpg.UndefinedColumnError, "is not migrated"),
    (asyncpg.ReadOnlySQLTransactionError, "is read-only"),
    (asyncpg.DiskFullError, "has no disk space left"),
    (asyncpg.ClientConfigurationError, "has a URL that is not valid"),
    (asyncpg.PostgresConnectionError, "closed the connection"),
    (asyncpg.OperatorInterventionError, "closed the connection"),
    (asyncpg.InterfaceError, "closed the connection"),
    (asyncpg.InternalClientError, "closed the connection"),  # while nothing was asked
    (TimeoutError, "did not answer in time"),
    (ConnectionRefusedError, "refuses connections"),
    (OSError, "is not reachable"),
)


class StoreUnavailable(Exception):
    """Postgres cannot be asked at the moment. `reason` is public: it names no host and no user.

    `is_certain` is False if the connection was lost while a transaction was being committed: it may have been.
    """

    def __init__(self, reason: str, *, is_certain: bool = True) -> None:
        super().__init__(f"PostgreSQL {reason}")
        self.reason = reason
        self.is_certain = is_certain


def reason_of(error: BaseException) -> str | None:
    """Why Postgres cannot be asked, as public words; None if the error says nothing about that."""
    if isinstance(error, asyncpg.DataError) and isinstance(error, asyncpg.InterfaceError):
        return None  # a value of ours that asyncpg could not encode
    if isinstance(error, _BUSY):
        return "is busy"
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)


def _is_lost(error: BaseException) -> bool:
    """True if the connection cannot be used any more."""
    if isinstance(error, asyncpg.PostgresError) and not isinstance(
        error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    ):
        return False
    return reason_of(error) is not None and not isinstance(error, _BUSY)


def _cut(connection: asyncpg.Connection) -> None:
    """Close without a word: asking it to roll back or to reset would wait for what does not come."""
    try:
        connection.terminate()
    except asyncpg.InterfaceError:
        pass  # the pool has noticed by itself


@asynccontextmanager
async def writing(connection: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that may change control tables; inside another one, a part of it that can fail alone."""
    async with connection.transaction():
        await connection.execute(_SQL["lock_control_tables"])
        yield connection


class Store:
    """The pool of one process. `postgres` says whether the server was there when it was last asked.

    `vault` seals the secrets that are written (None: there is no encryption key).
    """

    def __init__(self, url: str, postgres: Dependency, vault: Vault | None = None) -> None:
        self._url = url
        self._pool: Any = None
        self.postgres = postgres
        self.vault = vault

    async def open(self) -> None:
        """Make the pool. Does not connect: a server that is down at start is noticed, and found again, by use."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=_CONNECTIONS,
            timeout=_CONNECT_S,
            command_timeout=_STATEMENT_S,
            max_inactive_connection_lifetime=_IDLE_S,
            server_settings=_SERVER_SETTINGS,
        )

    async def close(self) -> None:
        """Close all connections; those that do not close in 5 s are cut."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), _STATEMENT_S)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to read with. Raises StoreUnavailable."""
        try:
            connection = await self._pool.acquire(timeout=_ACQUIRE_S)
        except _AWAY as error:
            if (
                isinstance(error, TimeoutError)
                and self._pool.get_idle_size() == 0 == _CONNECTIONS - self._pool.get_size()
            ):
                raise StoreUnavailable("is busy") from error  # with requests of ours
            self._translate(error)
        try:
            yield connection
            self.postgres.up()
        except _AWAY as error:
            if _is_lost(error):
                _cut(connection)
            self._translate(error)
        finally:
            try:
                await self._pool.release(connection)
            except _AWAY as error:
                log.warning("a connection was lost on its way back: %s", reason_of(error) or type(error).__name__)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection inside a transaction that may change control tables. Raises StoreUnavailable."""
        async with self.reading() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(_SQL["lock_control_tables"])
                yield connection
            except BaseException as error:
                if not _is_lost(error):
                    await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except _AWAY as error:
                _cut(connection)
                self._translate(error, is_certain=False)

    async def state(self) -> str:
        """Ask now: "up", or why Postgres cannot be used."""
        try:
            async with self.reading() as connection:
                version = await connection.fetchval(_SQL["version"])
        except StoreUnavailable as error:
            return error.reason
        return "up" if version == migrate.migrations()[-1].version else "is not migrated to this release"

    def _translate(self, error: Exception, *, is_certain: bool = True) -> NoReturn:
        reason = reason_of(error)
        if reason is None:
            raise error
        if not isinstance(error, _BUSY):
            self.postgres.down(reason)
        raise StoreUnavailable(reason, is_certain=is_certain) from error
