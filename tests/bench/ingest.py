"""How quickly usage events get into PostgreSQL, three ways in one run: `make bench-ingest`, ARGS="--seconds 10".

    insert       one INSERT per event, each its own transaction
    executemany  asyncpg's executemany, 1,000 events a transaction
    tollgate     the worker's Writer, two lanes, batches of 1,000: events, hourly and daily rollups, billing slots of one
                 billed meter, duplicates ignored

The first two store events alone: no rollup, no billing, no dead letters. The server is a PostgreSQL of its own on disk,
with synchronous_commit on. CPU is that of this process and of the server's processes, per event. Events are made before
the clock starts; they are of 50 customers, three meters each. The result is in .tollgate/bench/ingest.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
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

from ledger.ingest import Writer, judge
from ledger.metrics import IngestMetrics
from ledger.migrate import migrate
from ledger.partitions import ensure_partitions
from ledger.stream import Entry
from tests.bench.cpu import cpu_s, tree
from tests.ledger.facts import entry, fact
from tollgate.dev.embedded import start_postgres

BATCH: Final = 1_000
CUSTOMERS: Final = 50
LANES: Final = 2
_REAPED_S: Final = 0.5
"""After a connection is closed: its backend ends, and the postmaster takes over its CPU time."""
_RESULT: Final = Path(__file__).parents[2] / ".tollgate" / "bench" / "ingest.json"
_INSERT: Final = """
INSERT INTO usage_events (id, at, project_id, mode, customer_id, key_id, route_id, method, status, outcome, meters,
    duration_us, upstream_us)
VALUES ($1, 'epoch'::timestamptz + $2::bigint * interval '1 millisecond', $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT DO NOTHING
"""


def batches(seed: int, most: int) -> list[list[Entry]]:
    """Stream entries as gateways make them, of the past hour."""
    choose = random.Random(seed)
    now_ms = int(time.time() * 1000)
    return [
        [
            entry(
                fact(
                    now_ms - choose.randrange(1_000_000),
                    customer=f"cus_{choose.randrange(CUSTOMERS)}",
                    meters={"requests": 1, "bytes_in": 120, "bytes_out": 1024},
                )
            )
            for _ in range(BATCH)
        ]
        for _ in range(most)
    ]


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
METHODS: Final[dict[str, tuple[Method, int]]] = {
    "insert": (one_by_one, 4_000),
    "executemany": (many, 20_000),
    "tollgate": (ours, 70_000),
}
"""Each with the events a second it may reach: so many are made ready."""


async def measure(url: str, server_pid: int, name: str, seconds: float, seed: int) -> dict[str, float]:
    """Events a second, and CPU µs per event of client and server, of one method."""
    method, reach = METHODS[name]
    ready = batches(seed, max(4, int(reach * seconds) // BATCH))
    supply = itertools.chain(ready)
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


async def run(url: str, server_pid: int, seconds: float) -> dict[str, dict[str, float]]:
    """All three, on one database, the slowest first."""
    connection = await asyncpg.connect(url)
    await migrate(connection)
    await ensure_partitions(connection, datetime.now(UTC))
    await connection.execute(
        "INSERT INTO billed_meters (project_id, mode, meter, event_name, since)"
        " VALUES ('prj_acme', 'live', 'requests', 'requests', now() - interval '1 day')"
    )
    results = {}
    for seed, name in enumerate(METHODS):
        results[name] = await measure(url, server_pid, name, seconds, seed)
        print(f"{name:12}" + "".join(f"{value:>14,} {unit}" for unit, value in results[name].items()), flush=True)
    stored = await connection.fetchval("SELECT count(*) FROM usage_events")
    rolled = await connection.fetchval("SELECT sum(events) FROM usage_daily WHERE meter = 'requests'")
    counted = await connection.fetchval("SELECT sum(counted) FROM billing_slots")
    if not rolled == counted <= stored:
        sys.exit(f"the books differ: {stored} events, {rolled} rolled up, {counted} to bill")
    await connection.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each method (default: 5)")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="tollgate-bench-ingest-"))
    server = start_postgres(directory, durable=True, remove=True)
    try:
        pid = int((next(directory.rglob("postmaster.pid"))).read_text().split()[0])
        results = asyncio.run(run(server.url, pid, args.seconds))
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    _RESULT.parent.mkdir(parents=True, exist_ok=True)
    _RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {_RESULT}")


if __name__ == "__main__":
    main()
