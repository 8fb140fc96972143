"""How quickly usage events get into PostgreSQL, three ways in one run: make bench-ingest ARGS="--rows 2000000".

    insert       one INSERT per event, each its own transaction
    executemany  asyncpg's executemany, 1,000 events a transaction
    tollgate     the worker's Writer, its three lanes, batches of its default size: events, hourly and daily rollups, billing
                 slots of one billed meter, duplicates ignored

The first two store events alone: no rollup, no billing, no dead letters. The server is a PostgreSQL of its own on disk,
with synchronous_commit on. CPU is that of this process and of the server's processes, per event. Events are made before
the clock starts (tests/bench/events.py). With `--rows` the ledger is then filled with so many, and `tollgate` measured
again: `tollgate_at_rows`, with the ratio of the second rate to the first. At last events are offered at half of the
lowest rate of `tollgate` and their lag is measured (tests/bench/lag.py). The result is in .tollgate/bench/ingest.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
from prometheus_client import CollectorRegistry

from config.settings import WorkerSettings
from ledger.ingest import Writer, judge
from ledger.metrics import IngestMetrics
from ledger.migrate import migrate
from ledger.partitions import ensure_partitions
from ledger.stream import Entry
from tests.bench.cpu import cpu_s, tree
from tests.bench.events import PER_MS, facts
from tests.bench.lag import lag
from tests.bench.rows import seed
from tests.ledger.facts import entry
from tollgate.dev.embedded import start_postgres
from tollgate.worker import LANES

BATCH: Final = 1_000
OUR_BATCH: Final = WorkerSettings().batch_size
_REAPED_S: Final = 0.5
"""After a connection is closed: its backend ends, and the postmaster takes over its CPU time."""
_RESULT: Final = Path(__file__).parents[2] / ".tollgate" / "bench" / "ingest.json"
_INSERT: Final = """
INSERT INTO usage_events (id, at, project_id, mode, customer_id, key_id, route_id, method, status, outcome, meters,
    duration_us, upstream_us)
VALUES ($1, 'epoch'::timestamptz + $2::bigint * interval '1 millisecond', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT DO NOTHING
"""


def batches(number: int, most: int, size: int = BATCH) -> list[list[Entry]]:
    """Stream entries as gateways make them, up to now."""
    made = facts(number, most * size, int(time.time() * 1000) - most * size // PER_MS)
    return [[entry(one) for one in itertools.islice(made, size)] for _ in range(most)]


def server_cpu_s(postmaster: int) -> float:
    """CPU of the server so far, backends that have ended included: those the postmaster has waited for."""
    fields = Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()
    return cpu_s(tree(postmaster)) + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def rows_of(batch: list[Entry]) -> list[tuple[Any, ...]]:
    """The same events as parameters of a plain INSERT."""
    judged = judge(batch, int(time.time() * 1000))
    return [(*row[:5], *row[6:14]) for row in judged.rows]


async def one_by_one(url: str, work: Iterator[list[Entry]], until: float) -> int:
    connection = await asyncpg.connect(url)
    done = 0
    try:
        for batch in work:
            for row in rows_of(batch):
                await connection.execute(_INSERT, *row)
                done += 1
                if time.monotonic() >= until:
                    return done
    finally:
        await connection.close()
    return done


async def many(url: str, work: Iterator[list[Entry]], until: float) -> int:
    connection = await asyncpg.connect(url)
    done = 0
    try:
        for batch in work:
            async with connection.transaction():
                await connection.executemany(_INSERT, rows_of(batch))
            done += len(batch)
            if time.monotonic() >= until:
                break
    finally:
        await connection.close()
    return done


async def ours(url: str, work: Iterator[list[Entry]], until: float) -> int:
    metrics = IngestMetrics(CollectorRegistry())

    async def lane() -> int:
        writer = Writer(partial(asyncpg.connect, url), metrics)
        done = 0
        for batch in work:
            await writer.store(batch)
            done += len(batch)
            if time.monotonic() >= until:
                break
        await writer.close()
        return done

    return sum(await asyncio.gather(*(lane() for _ in range(LANES))))


Method = Callable[[str, Iterator[list[Entry]], float], Awaitable[int]]
METHODS: Final[dict[str, tuple[Method, int, int]]] = {
    "insert": (one_by_one, 8_000, BATCH),
    "executemany": (many, 60_000, BATCH),
    "tollgate": (ours, 100_000, OUR_BATCH),
}
"""Each with the events a second it may reach, so many are made ready; and how many at once."""
_BOOKS: Final = """
SELECT (SELECT count(*) FROM usage_events) AS stored,
    (SELECT coalesce(sum(events), 0) FROM usage_daily WHERE meter = 'requests') AS rolled,
    (SELECT coalesce(sum(counted), 0) FROM billing_slots) AS counted
"""


async def measure(url: str, server_pid: int, name: str, seconds: float, number: int) -> dict[str, float]:
    """Events a second, and CPU µs per event of client and server, of one method."""
    method, reach, size = METHODS[name]
    supply = iter(batches(number, max(4, int(reach * seconds) // size), size))
    client_s, server_s = time.process_time(), server_cpu_s(server_pid)
    began = time.monotonic()
    done = await method(url, supply, began + seconds)
    took = time.monotonic() - began
    client_s = time.process_time() - client_s
    await asyncio.sleep(_REAPED_S)
    server_s = server_cpu_s(server_pid) - server_s
    return {
        "events_per_s": round(done / took),
        "client_cpu_us": round(client_s / done * 1e6, 1),
        "server_cpu_us": round(server_s / done * 1e6, 1),
    }


def show(name: str, figures: dict[str, float]) -> None:
    print(f"{name:18}" + "".join(f"{value:>12,} {unit}" for unit, value in figures.items()), flush=True)


async def run(
    url: str, server_pid: int, seconds: float, rows: int = 0, lag_in: Path | None = None
) -> dict[str, dict[str, Any]]:
    """All three, on one database, the slowest first; ours again among `rows` events; the lag, with its files in `lag_in`."""
    connection = await asyncpg.connect(url)
    await migrate(connection)
    await ensure_partitions(connection, datetime.now(UTC))
    await connection.execute(
        "INSERT INTO billed_meters (project_id, mode, meter, event_name, since)"
        " VALUES ('prj_acme', 'live', 'requests', 'requests', now() - interval '1 day')"
    )
    results: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(METHODS):
        before = await connection.fetchrow(_BOOKS)
        await connection.execute("CHECKPOINT")
        results[name] = await measure(url, server_pid, name, seconds, number)
        show(name, results[name])
        if name == "tollgate":
            await _check(connection, before)
    slowest = results["tollgate"]["events_per_s"]
    if rows:
        began = time.monotonic()
        await seed(connection, rows)
        print(f"{rows:,} rows in {time.monotonic() - began:.0f} s", flush=True)
        before = await connection.fetchrow(_BOOKS)
        await connection.execute("CHECKPOINT")
        again = await measure(url, server_pid, "tollgate", seconds, len(METHODS))
        results["tollgate_at_rows"] = again | {"rows": rows, "ratio": round(again["events_per_s"] / slowest, 3)}
        show("tollgate_at_rows", results["tollgate_at_rows"])
        await _check(connection, before)
        slowest = min(slowest, again["events_per_s"])
    await connection.close()
    if lag_in is not None:
        results["tollgate"]["lag"] = await lag(url, lag_in, slowest / 2, seconds)
        show("lag", results["tollgate"]["lag"])
    return results


async def _check(connection: asyncpg.Connection, before: Any) -> None:
    """What ours stored since is rolled up, and to be billed."""
    after = await connection.fetchrow(_BOOKS)
    stored, rolled, counted = (after[name] - before[name] for name in ("stored", "rolled", "counted"))
    if not stored == rolled == counted:
        sys.exit(f"the books differ: {stored} events, {rolled} rolled up, {counted} to bill")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each method (default: 5)")
    parser.add_argument("--rows", type=int, default=0, help="measure again among so many events (default: not)")
    parser.add_argument("--no-lag", action="store_true", help="do not measure the lag")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="tollgate-bench-ingest-"))
    server = start_postgres(directory / "postgres", durable=True, remove=True)
    try:
        pid = int((next(directory.rglob("postmaster.pid"))).read_text().split()[0])
        results = asyncio.run(run(server.url, pid, args.seconds, args.rows, None if args.no_lag else directory))
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    _RESULT.parent.mkdir(parents=True, exist_ok=True)
    _RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {_RESULT}")


if __name__ == "__main__":
    main()
