"""The benchmark of ingest itself: it runs, its books agree, and it counts the CPU of backends that have ended."""

from __future__ import annotations

from pathlib import Path

from tests.bench.ingest import METHODS, run
from tests.support.servers import TestPostgres


async def test_each_method_stores_what_it_says(empty_postgres_url: str, postgres_server: TestPostgres) -> None:
    directory = postgres_server._directory
    pid = int(next(Path(directory).rglob("postmaster.pid")).read_text().split()[0])
    results = await run(empty_postgres_url, pid, 0.05)
    assert list(results) == list(METHODS)
    for figures in results.values():
        assert set(figures) == {"events_per_s", "client_cpu_us", "server_cpu_us"}
        assert figures["events_per_s"] > 0
        assert figures["client_cpu_us"] > 0
