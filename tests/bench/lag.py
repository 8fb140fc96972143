"""How long after its settlement an event is seen in the usage API's figures, while events come at a steady rate.

Events are put on the usage streams as gateways put them there, in batches every 10 ms; a real `tollgate worker` stores
them. Each batch holds one event of a customer of its own, and the figures of that customer are asked for, by the query
of `GET /api/v1/usage?customer=`, until it is there. The lag is from the moment Redis gave the stream entry to the answer.
Events are made before the clock starts.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import asyncpg
import orjson
import redis.asyncio

from ledger.names import shard_of, usage_stream
from ledger.usage_figures import month, summary
from tests.bench.cpu import cpu_s
from tests.bench.events import MODE, PROJECT, customer, facts
from tests.e2e.stack import environment
from tollgate.dev.embedded import start_redis

SHARDS: Final = 16
_EVERY_S: Final = 0.01
_LONGEST_S: Final = 30.0
"""How long after the last event all must be seen."""


class LagError(Exception):
    """The lag cannot be told; the message says why."""


async def lag(url: str, directory: Path, per_s: float, seconds: float) -> dict[str, float]:
    """Events at `per_s` for `seconds`: milliseconds until they are seen, and CPU µs of the worker for each."""
    server = start_redis(directory / "redis", remove=True)
    with (directory / "worker.log").open("wb") as log:
        env = environment(TOLLGATE_POSTGRES_URL=url, TOLLGATE_REDIS_URL=server.url, TOLLGATE_REDIS_SHARDS=str(SHARDS))
        worker = subprocess.Popen(
            [sys.executable, "-m", "tollgate.cli", "worker"], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    client = redis.asyncio.Redis.from_url(server.url)
    pool = await asyncpg.create_pool(url, min_size=1, max_size=1)
    try:
        await _group(client, worker)
        used_s = cpu_s([worker.pid])
        waits = await _offer(client, pool, per_s, seconds)
        used_s = cpu_s([worker.pid]) - used_s
    finally:
        await pool.close()
        await client.aclose()
        worker.terminate()
        await asyncio.to_thread(worker.wait, 30)
        server.stop()
    waits.sort()
    return {
        "offered_per_s": round(per_s),
        "p50_ms": round(waits[len(waits) // 2]),
        "p99_ms": round(waits[int(len(waits) * 0.99)]),
        "max_ms": round(waits[-1]),
        "worker_cpu_us": round(used_s / (per_s * seconds) * 1e6, 1),
    }


async def _group(client: redis.asyncio.Redis, worker: subprocess.Popen[bytes]) -> None:
    """Wait until the worker reads the streams."""
    give_up = time.monotonic() + 30
    while not await client.exists(usage_stream(SHARDS - 1)):
        if worker.poll() is not None or time.monotonic() > give_up:
            raise LagError("the worker does not come up")
        await asyncio.sleep(0.05)


async def _offer(client: redis.asyncio.Redis, pool: asyncpg.Pool, per_s: float, seconds: float) -> list[float]:
    """Milliseconds of lag, one for each batch."""
    size, count = max(1, round(per_s * _EVERY_S)), round(seconds / _EVERY_S)
    now_ms = int(time.time() * 1000)
    ready = facts(seed=9, most=size * count, began_ms=now_ms)
    batches = [[orjson.dumps(fact) for fact in itertools.islice(ready, size - 1)] for _ in range(count)]
    outstanding: deque[tuple[str, int]] = deque()
    is_over = False

    async def watch() -> list[float]:
        waits: list[float] = []
        while outstanding or not is_over:
            if not outstanding:
                await asyncio.sleep(0.001)
                continue
            who, entered_ms = outstanding[0]
            found = await summary(pool, PROJECT, MODE, month(None, datetime.now(UTC)), who)  # type: ignore[arg-type]
            if found.by_meter.get("requests"):
                waits.append(time.time() * 1000 - entered_ms)
                outstanding.popleft()
            elif time.time() * 1000 - entered_ms > _LONGEST_S * 1000:
                raise LagError(f"an event is not there after {_LONGEST_S:.0f} s")
            else:
                await asyncio.sleep(0.002)
        return waits

    watching = asyncio.create_task(watch(), name="watch the figures")
    try:
        began = time.monotonic()
        for number, batch in enumerate(batches):
            await asyncio.sleep(max(0.0, began + number * _EVERY_S - time.monotonic()))
            who = customer(1_000_000 + number)
            one = next(facts(seed=number, most=1, began_ms=int(time.time() * 1000), who=who))
            pipeline = client.pipeline(transaction=False)
            for raw, shard in zip(batch, itertools.cycle(range(SHARDS))):
                pipeline.execute_command("XADD", usage_stream(shard), "*", "e", raw)
            pipeline.execute_command("XADD", usage_stream(shard_of(PROJECT, who, SHARDS)), "*", "e", orjson.dumps(one))
            entered = (await pipeline.execute())[-1]
            outstanding.append((who, int(entered.partition(b"-")[0])))
        is_over = True
        return await watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
