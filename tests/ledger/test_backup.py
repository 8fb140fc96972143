"""Backup and restore: everything comes back, numbers go on where they were, and nothing is billed twice after it."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ledger.backup import BackupError, backup, restore
from ledger.billing.proof import flaws
from ledger.ingest import Writer
from tests.ledger import books
from tests.ledger.billing.conftest import World, world
from tests.ledger.billing.test_seal import EVER
from tests.ledger.facts import HOUR_MS, NOW_MS, PROJECT, entry, fact
from tests.support.servers import TestPostgres

__all__ = ["world"]
TABLES = """
SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1
"""


@pytest.fixture
def second_url(postgres_server: TestPostgres) -> Iterator[str]:
    """Another database, just migrated."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
async def empty(second_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to it."""
    connection = await asyncpg.connect(second_url)
    yield connection
    await connection.close()


async def everything(pg: asyncpg.Connection) -> dict[str, Any]:
    return {
        row["name"]: sorted(map(repr, await pg.fetch(f"SELECT * FROM {row['name']}")))
        for row in await pg.fetch(TABLES)
        if row["name"] not in ("restores", "billing_entries", "schema_migrations")
    }


async def fill(world: World, writer: Writer) -> None:
    await writer.store([entry(fact(meters={"requests": 5})), entry(b"not JSON")])
    await writer.store([entry(fact(NOW_MS - HOUR_MS, customer=None, external="o'b,\"rien\n", meters={"requests": 2}))])
    await world.seal()
    await world.send_all()


async def test_everything_comes_back(world: World, writer: Writer, empty: asyncpg.Connection, tmp_path: Path) -> None:
    await fill(world, writer)
    file = tmp_path / "ledger.tar"
    made = await backup(world.pg, file)
    assert made.rows["usage_events"] == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.tar"]

    back = await restore(empty, file)

    assert back == made
    assert await everything(empty) == await everything(world.pg)
    assert await books.read(empty) == await books.read(world.pg)
    number = "INSERT INTO dead_letters (stream, entry_id, payload, reason) VALUES ('x', '9-9', '', '') RETURNING id"
    assert await empty.fetchval(number) == await world.pg.fetchval(number)
    assert await empty.fetchval("SELECT count(*) FROM changes") == await world.pg.fetchval(
        "SELECT count(*) FROM changes"
    )
    await empty.execute("UPDATE projects SET name = 'Renamed' WHERE id = $1", PROJECT)
    assert await empty.fetchval("SELECT count(*) FROM changes") > await world.pg.fetchval(
        "SELECT count(*) FROM changes"
    )


async def test_what_was_sent_after_the_backup_is_not_sent_again(
    world: World, writer: Writer, empty: asyncpg.Connection, second_url: str, tmp_path: Path
) -> None:
    """At the backup one hour is sealed and due, one not sealed; both are sent afterwards, days before the restore."""
    await writer.store([entry(fact(meters={"requests": 5}))])
    await world.seal()
    await writer.store([entry(fact(NOW_MS - HOUR_MS, meters={"requests": 7}))])
    await backup(world.pg, tmp_path / "b")
    await world.seal()
    await world.send_all()
    assert world.billed() == {"cus_ada": 12}

    world.pass_time(timedelta(days=3))
    await restore(empty, tmp_path / "b")
    await empty.execute("UPDATE restores SET restored_at = $1", world.now)
    lost, world.pg = world.pg, empty
    lost_pool = world.pool
    world.pool = await asyncpg.create_pool(second_url, min_size=0, max_size=4)
    try:
        await world.seal()
        await world.send_all()
        assert world.billed() == {"cus_ada": 12}
        assert {state for state, _ in await world.reasons()} == {"sent"}
        assert await flaws(empty, *EVER) == []
    finally:
        await world.pool.close()
        world.pg, world.pool = lost, lost_pool


async def test_a_database_in_use_is_not_overwritten(
    world: World, writer: Writer, empty: asyncpg.Connection, tmp_path: Path
) -> None:
    await fill(world, writer)
    await backup(world.pg, tmp_path / "b")
    before = await everything(world.pg)
    with pytest.raises(BackupError, match="is in use"):
        await restore(world.pg, tmp_path / "b")
    assert await everything(world.pg) == before
    with pytest.raises(BackupError, match="is there already"):
        await backup(world.pg, tmp_path / "b")

    await empty.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 2")
    with pytest.raises(BackupError, match="another release"):
        await restore(empty, tmp_path / "b")


@pytest.mark.parametrize("damage", ["cut", "bit", "text", "none", "table"])
async def test_a_damaged_backup_changes_nothing(
    damage: str, world: World, writer: Writer, empty: asyncpg.Connection, tmp_path: Path
) -> None:
    await fill(world, writer)
    file = tmp_path / "b"
    await backup(world.pg, file)
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "bit":
        with tarfile.open(file) as tar:
            offset = tar.getmember("usage_events.csv.zst").offset_data
        data[offset + 20] ^= 1
        file.write_bytes(data)
    elif damage == "text":
        file.write_text("no backup")
    elif damage == "none":
        file.unlink()
    else:
        file.write_bytes(data.replace(b"usage_daily.csv.zst", b"usage_dayly.csv.zst"))
    before = await everything(empty)

    with pytest.raises(BackupError, match=r"damaged|no backup"):
        await restore(empty, file)
    assert await everything(empty) == before
