"""Retention: months go to files only when nothing can get lost, and come back whole."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import zstandard
from pydantic import SecretStr

from config.settings import Settings, WorkerSettings
from ledger.archive import NotArchived, archive, archive_due, archives, bring_back, due
from ledger.ingest import Writer
from ledger.partitions import ensure_partitions
from ledger.receipt import receipt
from ledger.reconcile.run import month_of, reconcile
from tests.ledger import books
from tests.ledger.facts import DAY_MS, NOW, NOW_MS, PROJECT, entry, fact
from tollgate.archiving import keep_archiving
from tollgate.lines import Lines

LATER = datetime(2026, 7, 10, tzinfo=UTC)
MARCH = "usage_events_2026_03"
COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum"


@pytest.fixture
async def march(ledger: asyncpg.Connection, writer: Writer) -> list[str]:
    """Events of March, in February's neighbour too, with texts that CSV finds hard."""
    events = [
        fact(NOW_MS - n * DAY_MS // 3, method='G"E,T\n', route=None, notes={"estimated": ["a\nb"]}, idem=f"k{n}")
        for n in range(40)
    ]
    await writer.store([entry(event) for event in events])
    await ensure_partitions(ledger, LATER)
    return [event["id"] for event in events]


def test_what_is_due() -> None:
    names = [f"usage_events_2026_{month:02d}" for month in range(1, 8)]
    assert [name for name, _, _ in due(names, LATER, 3)] == names[:3]
    assert [name for name, _, _ in due(names, LATER, 5)] == names[:1]
    assert due(names, LATER, 1) == due(names, LATER, 3)


async def test_there_and_back(ledger: asyncpg.Connection, march: list[str], tmp_path: Path) -> None:
    before = await books.read(ledger)
    rows = await ledger.fetch(f"SELECT * FROM {MARCH} ORDER BY id")
    daily = await ledger.fetch("SELECT * FROM usage_daily ORDER BY day")

    done = await archive_due(ledger, tmp_path / "old", LATER, 3)

    archived = {one.name: one for one in done}
    assert archived[MARCH].events == len(rows) > 0
    assert [path.name for path in (tmp_path / "old").iterdir()] == [f"{one.name}.csv.zst" for one in done]
    assert await ledger.fetchval("SELECT to_regclass($1)", MARCH) is None
    assert await ledger.fetch("SELECT * FROM usage_daily ORDER BY day") == daily
    assert {one.name for one in await archives(ledger)} == set(archived)
    assert await archive_due(ledger, tmp_path / "old", LATER, 3) == []
    assert await receipt(ledger, PROJECT, "live", uuid.UUID(march[0])) is None

    for name in archived:
        await bring_back(ledger, name)
    assert await ledger.fetch(f"SELECT * FROM {MARCH} ORDER BY id") == rows
    assert await books.read(ledger) == before
    assert await archives(ledger) == []


async def test_reconciliation_never_repairs_what_lives_in_files(
    ledger: asyncpg.Connection, march: list[str], tmp_path: Path
) -> None:
    """To it, the events would all be missing."""
    await archive_due(ledger, tmp_path, LATER, 3)
    daily = await ledger.fetch("SELECT * FROM usage_daily ORDER BY day")
    report = await reconcile(ledger, *month_of("2026-03", NOW), is_repair=True)

    assert report.is_clean
    assert any("archived" in reason for reason in report.left_out)
    assert await ledger.fetch("SELECT * FROM usage_daily ORDER BY day") == daily


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("UPDATE usage_daily SET quantity = quantity + 1 WHERE day = '2026-03-15'", "daily rollup differs"),
        (
            "INSERT INTO billing_slots VALUES ('prj_acme', 'live', 'c', 'm', '2026-03-15', '2026-03-15', '2026-03-01', 5)",
            "not settled",
        ),
    ],
)
async def test_a_month_whose_books_do_not_agree_stays(
    damage: str,
    why: str,
    ledger: asyncpg.Connection,
    march: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await ledger.execute(damage)
    done = await archive_due(ledger, tmp_path, LATER, 3)

    assert MARCH not in {one.name for one in done}
    assert why in caplog.text
    assert await ledger.fetchval(f"SELECT count(*) FROM {MARCH}")
    assert not (tmp_path / f"{MARCH}.csv.zst").exists()
    assert not list(tmp_path.glob("*.part"))


async def test_a_file_that_is_damaged_is_not_taken(
    ledger: asyncpg.Connection, march: list[str], tmp_path: Path
) -> None:
    await archive_due(ledger, tmp_path, LATER, 3)
    path = tmp_path / f"{MARCH}.csv.zst"
    path.write_bytes(path.read_bytes()[:-5] + b"12345")
    with pytest.raises(NotArchived):
        await bring_back(ledger, MARCH)
    path.unlink()
    with pytest.raises(NotArchived, match="cannot be read"):
        await bring_back(ledger, MARCH)
    with pytest.raises(NotArchived, match="there is no archive"):
        await bring_back(ledger, "usage_events_1999_01")


async def test_a_directory_that_cannot_be_written_loses_nothing(
    ledger: asyncpg.Connection, march: list[str], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError):
        await archive_due(ledger, blocked, LATER, 3)
    assert await ledger.fetchval(f"SELECT count(*) FROM {MARCH}")


async def test_the_worker_archives_by_itself_where_it_is_told_to(
    pg: asyncpg.Connection, postgres_url: str, tmp_path: Path
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=900)
    await ensure_partitions(pg, long_ago)
    stop = asyncio.Event()

    async def until_done() -> None:
        async with asyncio.timeout(10):
            while len(await archives(pg)) < 3:
                await asyncio.sleep(0.02)
        stop.set()

    worker = WorkerSettings(archive_directory=tmp_path / "old")
    settings = Settings(postgres_url=SecretStr(postgres_url), worker=worker)
    await asyncio.gather(keep_archiving(settings, Lines(), stop), until_done())
    assert len(list((tmp_path / "old").glob("*.csv.zst"))) >= 3

    await asyncio.wait_for(keep_archiving(Settings(postgres_url=SecretStr(postgres_url)), Lines(), asyncio.Event()), 1)


class Watched:
    """A compressor or its counterpart that asks the loop for a turn during each piece of work, and notes if it got none."""

    def __init__(self, real: Any, loop: asyncio.AbstractEventLoop, pieces: list[bool]) -> None:
        self._real, self._loop, self._pieces = real, loop, pieces

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._real, name)
        if name in ("stream_writer", "stream_reader"):
            return lambda *args, **options: Watched(made(*args, **options), self._loop, self._pieces)
        if name not in ("write", "read"):
            return made

        def work(*args: Any) -> Any:
            had_a_turn = threading.Event()
            self._loop.call_soon_threadsafe(had_a_turn.set)
            self._pieces.append(had_a_turn.wait(2))
            return made(*args)

        return work


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each piece that is compressed or expanded: whether the loop went on meanwhile."""
    found: list[bool] = []
    for name in ("ZstdCompressor", "ZstdDecompressor"):
        real = getattr(zstandard, name)
        monkeypatch.setattr(
            f"ledger.archive.zstandard.{name}",
            lambda *args, _real=real, **options: Watched(_real(*args, **options), asyncio.get_running_loop(), found),
        )
    return found


async def test_compressing_holds_nothing_up(
    ledger: asyncpg.Connection, march: list[str], tmp_path: Path, pieces: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the process that stores usage: its lag stays what it is."""
    columns = ",".join(row["attname"] for row in await ledger.fetch(COLUMNS, MARCH))
    monkeypatch.setattr("ledger.archive._header", lambda path: columns)
    count = await ledger.fetchval(f"SELECT count(*) FROM {MARCH}")
    monkeypatch.setattr("ledger.archive._read_back", lambda path: ("0" * 64, count + 1))
    await archive(ledger, tmp_path, MARCH, datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
    assert pieces
    written = len(pieces)
    await bring_back(ledger, MARCH)
    assert len(pieces) > written
    assert all(pieces)
    assert await ledger.fetchval(f"SELECT count(*) FROM {MARCH}") == count


async def test_broken_off_it_leaves_no_thread_at_the_file(
    ledger: asyncpg.Connection, march: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    loop, written = asyncio.get_running_loop(), []

    class Slow:
        def stream_writer(self, file: Any, **_: Any) -> Slow:
            self.file = file
            return self

        def write(self, data: bytes) -> int:
            loop.call_soon_threadsafe(begun.set)
            time.sleep(0.1)
            written.append(self.file.closed)
            return len(data)

    monkeypatch.setattr("ledger.archive.zstandard.ZstdCompressor", lambda **_: Slow())
    archiving = asyncio.create_task(archive_due(ledger, tmp_path, LATER, 3))
    async with asyncio.timeout(10):
        await begun.wait()
    archiving.cancel()
    with pytest.raises((asyncio.CancelledError, asyncpg.InterfaceError)):  # its connection is gone with it
        await archiving
    assert written == [False]  # it was finished first
    assert list(tmp_path.iterdir()) == []
