"""Migrations: each applied once, in order, and the database never disagrees with the files unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256

import asyncpg
import pytest

from ledger import migrate as module
from ledger.migrate import Migration, MigrationError, migrate, migrations


def made(version: int, sql: str) -> Migration:
    return Migration(version, f"{version:04d}_made.sql", sql, sha256(sql.encode()).hexdigest())


def release(monkeypatch: pytest.MonkeyPatch, *files: Migration) -> None:
    """From here on the release has these migrations."""
    monkeypatch.setattr(module, "migrations", lambda: list(files))


@pytest.fixture
async def empty(empty_postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_postgres_url)
    yield connection
    await connection.close(timeout=5)


def test_the_files_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


async def test_the_first_run_applies_everything_and_the_second_nothing(empty: asyncpg.Connection) -> None:
    assert await migrate(empty) == [migration.name for migration in migrations()]
    assert await migrate(empty) == []
    assert await empty.fetchval("SELECT name FROM projects") == "Platform"


async def test_only_what_is_new_is_applied(empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = made(1, "CREATE TABLE one ()"), made(2, "CREATE TABLE two ()")
    release(monkeypatch, one)
    await migrate(empty)

    release(monkeypatch, one, two)

    assert await migrate(empty) == ["0002_made.sql"]


async def test_a_file_edited_after_it_was_applied_is_refused(
    empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, made(1, "CREATE TABLE one ()"))
    await migrate(empty)

    release(monkeypatch, made(1, "CREATE TABLE one (id int)"), made(2, "CREATE TABLE two ()"))

    with pytest.raises(MigrationError, match=r"0001_made\.sql was changed after it was applied; restore the file"):
        await migrate(empty)
    assert await empty.fetchval("SELECT to_regclass('two')") is None


async def test_a_database_of_a_newer_release_is_refused(
    empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = made(1, "CREATE TABLE one ()"), made(2, "CREATE TABLE two ()")
    release(monkeypatch, one, two)
    await migrate(empty)

    release(monkeypatch, one)

    with pytest.raises(MigrationError, match=r"0002_made\.sql was applied by a newer release"):
        await migrate(empty)


async def test_a_migration_that_fails_leaves_nothing_and_keeps_those_before(
    empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(1, "CREATE TABLE one ()")
    release(monkeypatch, one, made(2, "CREATE TABLE two (); SELECT 1 / 0"))

    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty)

    assert await empty.fetchval("SELECT to_regclass('one') IS NOT NULL AND to_regclass('two') IS NULL")
    assert await empty.fetchval("SELECT array_agg(version) FROM schema_migrations") == [1]
    release(monkeypatch, one, made(2, "CREATE TABLE two ()"))
    assert await migrate(empty) == ["0002_made.sql"]


async def test_concurrent_runs_apply_each_migration_once(empty_postgres_url: str) -> None:
    connections = [await asyncpg.connect(empty_postgres_url) for _ in range(4)]
    try:
        applied = await asyncio.gather(*(migrate(connection) for connection in connections))
    finally:
        for connection in connections:
            await connection.close(timeout=5)

    assert sorted(applied) == [[], [], [], [migration.name for migration in migrations()]]


async def test_a_run_that_failed_lets_the_next_one_in(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release(monkeypatch, made(1, "SELECT 1 / 0"))
    first, second = await asyncpg.connect(empty_postgres_url), await asyncpg.connect(empty_postgres_url)
    try:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(first)  # and keeps its connection
        release(monkeypatch, made(1, "CREATE TABLE one ()"))
        assert await asyncio.wait_for(migrate(second), 5) == ["0001_made.sql"]
    finally:
        await first.close(timeout=5)
        await second.close(timeout=5)
