"""The benchmark of ingest itself: it runs, its books agree, and it counts the CPU of backends that have ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from ledger.billing.proof import flaws
from ledger.partitions import ensure_partitions
from tests.bench.ingest import METHODS, run
from tests.bench.rows import seed
from tests.support.servers import TestPostgres


async def test_each_method_stores_what_it_says(
    empty_postgres_url: str, postgres_server: TestPostgres, tmp_path: Path
) -> None:
    directory = postgres_server._directory
    pid = int(next(Path(directory).rglob("postmaster.pid")).read_text().split()[0])
    results = await run(empty_postgres_url, pid, 0.05, rows=3_000, lag_in=tmp_path)
    assert list(results) == [*METHODS, "tollgate_at_rows"]
    for figures in results.values():
        assert set(figures) >= {"events_per_s", "client_cpu_us", "server_cpu_us"}
        assert figures["events_per_s"] > 0
        assert figures["client_cpu_us"] > 0
    assert results["tollgate_at_rows"]["rows"] == 3_000
    assert results["tollgate_at_rows"]["ratio"] > 0
    seen = results["tollgate"]["lag"]
    assert 0 <= seen["p50_ms"] <= seen["p99_ms"] <= seen["max_ms"]


async def test_a_ledger_that_has_been_in_use_agrees_with_itself(postgres_url: str, pg: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    await ensure_partitions(pg, now)
    since = now - timedelta(days=40)
    await pg.execute(
        "INSERT INTO billed_meters (project_id, mode, meter, event_name, since)"
        " VALUES ('prj_acme', 'live', 'requests', 'requests', $1)",
        since,
    )
    await seed(pg, 5_000)
    assert await pg.fetchval("SELECT count(DISTINCT id) FROM usage_events") == 5_000
    assert await flaws(pg, since, now) == []
    rolled = await pg.fetch(
        "SELECT meter, sum(events)::bigint AS events, sum(quantity)::bigint AS quantity FROM usage_daily"
        " GROUP BY meter ORDER BY meter"
    )
    assert [tuple(row) for row in rolled] == [
        ("bytes_in", 5_000, 120 * 5_000),
        ("bytes_out", 5_000, 1024 * 5_000),
        ("requests", 5_000, 5_000),
    ]
