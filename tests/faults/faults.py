"""What is done to the stack: each fault is a coroutine that does its worst and then makes the stack whole again.

`pause_s` is how long things stay paused or away. Each returns only when what it killed was started again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg

from ledger.periods import months_after
from tests.faults.stack import SPOOL_BYTES, Stack

Fault = Callable[[Stack, random.Random, float], Awaitable[None]]


async def gateway_killed(stack: Stack, chance: random.Random, pause_s: float) -> None:
    """One of the two gateway processes; its parent starts another."""
    os.kill(chance.choice(stack.gateway_workers()), signal.SIGKILL)


async def gateway_paused(stack: Stack, chance: random.Random, pause_s: float) -> None:
    await _paused(chance.choice(stack.gateway_workers()), pause_s)


async def worker_killed(stack: Stack, chance: random.Random, pause_s: float) -> None:
    await stack.kill("worker")
    await asyncio.sleep(chance.uniform(0, pause_s))
    stack.start_worker()


async def worker_paused(stack: Stack, chance: random.Random, pause_s: float) -> None:
    await _paused(stack.pid("worker"), pause_s)


async def redis_killed(stack: Stack, chance: random.Random, pause_s: float) -> None:
    os.kill(stack.redis.pid, signal.SIGKILL)
    await asyncio.sleep(chance.uniform(0, pause_s))
    stack.redis.stop()
    await stack.start_redis()


async def redis_paused(stack: Stack, chance: random.Random, pause_s: float) -> None:
    await _paused(stack.redis.pid, pause_s)


async def redis_emptied(stack: Stack, chance: random.Random, pause_s: float) -> None:
    async with stack.client() as client:
        await client.flushall()


async def redis_full(stack: Stack, chance: random.Random, pause_s: float) -> None:
    async with stack.client() as client:
        await client.config_set("maxmemory", "1mb")
        await asyncio.sleep(pause_s)
        await client.config_set("maxmemory", "0")


async def postgres_killed(stack: Stack, chance: random.Random, pause_s: float) -> None:
    os.kill(stack.postgres.pid, signal.SIGKILL)
    await asyncio.sleep(chance.uniform(0, pause_s))
    stack.postgres.stop()
    await stack.start_postgres()


async def postgres_paused(stack: Stack, chance: random.Random, pause_s: float) -> None:
    await _paused(stack.postgres.pid, pause_s)


async def connections_cut(stack: Stack, chance: random.Random, pause_s: float) -> None:
    """All connections to Redis and PostgreSQL, several times."""
    for _ in range(3):
        async with stack.client() as client:
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        connection = await asyncpg.connect(stack.postgres.url)
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        await connection.close(timeout=5)
        await asyncio.sleep(pause_s / 4)


async def spool_full(stack: Stack, chance: random.Random, pause_s: float) -> None:
    """The disk of the spool has next to no room while Redis is paused."""
    ballast = stack.spool / "ballast"
    room = os.statvfs(stack.spool)
    free = min(room.f_bavail * room.f_frsize, SPOOL_BYTES)
    ballast.write_bytes(b"x" * max(0, free - 16_384))
    try:
        await _paused(stack.redis.pid, pause_s)
    finally:
        ballast.unlink()


async def gateway_and_redis_killed(stack: Stack, chance: random.Random, pause_s: float) -> None:
    """One after the other, while the spool is in use."""
    os.kill(stack.redis.pid, signal.SIGKILL)
    await asyncio.sleep(pause_s / 2)
    os.kill(chance.choice(stack.gateway_workers()), signal.SIGKILL)
    await asyncio.sleep(pause_s / 4)
    stack.redis.stop()
    await stack.start_redis()


async def month_ends(stack: Stack, chance: random.Random, pause_s: float) -> None:
    """Gateway and worker are started again with clocks that pass the end of a month a second later, then with true ones."""
    now = datetime.now(UTC)
    end = months_after(datetime(now.year, now.month, 1, tzinfo=UTC), 1)
    await _with_clock(stack, (end - now).total_seconds() - 3.0 - chance.random())
    await asyncio.sleep(pause_s + 3.0)


async def _with_clock(stack: Stack, offset_s: float) -> None:
    await asyncio.gather(stack.stop("gateway"), stack.stop("worker"))
    stack.clock_offset_s = offset_s
    stack.start_worker()
    stack.start_gateway()
    await stack.ready()


async def clock_set_right(stack: Stack) -> None:
    """After a round in which it was wrong."""
    if stack.clock_offset_s:
        await _with_clock(stack, 0.0)


async def gateway_replaced(stack: Stack, chance: random.Random, pause_s: float) -> None:
    """A rolling restart: each process is followed by another before it ends."""
    os.kill(stack.pid("gateway"), signal.SIGHUP)
    await asyncio.sleep(pause_s)


async def nothing(stack: Stack, chance: random.Random, pause_s: float) -> None:
    """The control: books must also agree when all is well."""


async def _paused(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


ALL: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        nothing,
        redis_paused,
        redis_killed,
        redis_emptied,
        redis_full,
        spool_full,
        connections_cut,
        worker_killed,
        worker_paused,
        postgres_killed,
        postgres_paused,
        gateway_paused,
        gateway_killed,
        gateway_replaced,
        gateway_and_redis_killed,
        month_ends,
    )
}
