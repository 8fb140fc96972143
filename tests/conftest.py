"""Fixtures every test may use: real PostgreSQL and Redis, fresh for each test.

The servers start with the first test that needs them, one pair per pytest process (so one per xdist worker).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.support.servers import TestPostgres, TestRedis


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[TestPostgres]:
    """The PostgreSQL of this pytest process."""
    server = TestPostgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[TestRedis]:
    """The Redis of this pytest process."""
    server = TestRedis()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: TestPostgres) -> Iterator[str]:
    """The URL of a fresh, migrated database; dropped afterwards."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_postgres_url(postgres_server: TestPostgres) -> Iterator[str]:
    """The URL of a fresh database without any table; dropped afterwards."""
    url = postgres_server.create_database(migrated=False)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def redis_url(redis_server: TestRedis) -> str:
    """The URL of a Redis without any key."""
    redis_server.flush()
    return redis_server.server.url


@pytest.fixture
async def pg(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of `postgres_url`."""
    connection: asyncpg.Connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close(timeout=5)
