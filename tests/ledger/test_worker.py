"""The worker plane as a process: it waits for what it needs, says for what, works, and stops when asked."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from ledger.ids import uuid7
from ledger.migrate import migrate
from ledger.names import CONSUMER_GROUP, STREAM_FIELD, shard_of, usage_stream
from ledger.stream import connect
from tests.ledger import books
from tests.ledger.facts import PROJECT, fact
from tests.ledger.line import line_to
from tollgate.worker import LANES, STOP_S

# Settings come on standard input, so that no password shows in a process list.
PROGRAM = """
import sys
from config.settings import Settings
from tollgate.worker import main
main(Settings.model_validate_json(sys.stdin.read()))
"""
DEADLINE_S = 20.0
IDLE_LANES = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tollgate-worker' AND state = 'idle' AND query = 'SELECT 1'
"""


class Process:
    """A worker process and what it says. `url` is known once it listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[str] = []
        self.url = ""
        self.listens = asyncio.Event()
        self.listening = asyncio.create_task(self._listen(), name="worker's log")

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.said.append(line.decode())
            if found := re.search(r"listens on (http://[0-9.]+:\d+)", self.said[-1]):
                self.url = found[1]
                self.listens.set()
        self.listens.set()

    async def end(self, signum: int) -> int:
        """Send a signal and return the exit status."""
        self._process.send_signal(signum)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            await self.listening
            return await self._process.wait()

    async def close(self) -> None:
        if self._process.returncode is None:
            await self.end(signal.SIGKILL)
        await self.listening

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def until(self, path: str, right: Callable[[int, str], bool]) -> tuple[int, str]:
        """Ask until the answer is right; returns it."""
        began = time.monotonic()
        while True:
            status, text = await self.get(path)
            if right(status, text):
                return status, text
            assert time.monotonic() - began < DEADLINE_S, (status, text, self.said)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Process]:
    """A worker with these settings, on a free port unless they say otherwise; killed at the end if need be."""
    settings = {"worker": {}, "log_format": "console"} | settings
    settings["worker"] = {"metrics_port": 0} | settings["worker"]
    spawned = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert spawned.stdin is not None
    spawned.stdin.write(json.dumps(settings).encode())
    spawned.stdin.close()
    process = Process(spawned)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await process.listens.wait()
        yield process
    finally:
        await process.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def send(redis: Redis, count: int, shards: int = 16) -> None:
    """Events of this very moment, as gateways send them."""
    for number in range(count):
        made = uuid7()
        event = fact() | {"id": made.hex, "at": made.int >> 80, "customer": f"cus_{number % 20}"}
        stream = usage_stream(shard_of(PROJECT, event["customer"], shards))
        await redis.xadd(stream, {STREAM_FIELD: orjson.dumps(event)})


def _is_ready(status: int, text: str) -> bool:
    return status == 200


def _has_written(count: int) -> Callable[[int, str], bool]:
    return lambda status, text: f"tollgate_events_written_total {float(count)}" in text


async def test_a_worker_from_before_its_schema_to_its_orderly_end(
    empty_postgres_url: str, redis_url: str, redis: Redis
) -> None:
    pg = await asyncpg.connect(empty_postgres_url)
    try:
        async with running(postgres_url=empty_postgres_url, redis_url=redis_url) as worker:
            assert await worker.get("/health") == (200, '{"status": "ok"}')
            status, text = await worker.until("/ready", lambda status, text: "schema" in text)
            assert (status, json.loads(text)) == (
                503,
                {
                    "status": "not ready",
                    "dependencies": {
                        "postgres": "the schema is not there yet (tollgate migrate)",
                        "redis": "starting",
                    },
                },
            )

            await send(redis, 30)
            await migrate(pg)
            status, text = await worker.until("/ready", _is_ready)
            assert json.loads(text) == {"status": "ready", "dependencies": {"postgres": "up", "redis": "up"}}

            _, text = await worker.until("/metrics", _has_written(30))
            assert "tollgate_stream_lag_seconds " in text
            assert "tollgate_batch_seconds_bucket" in text
            assert "tollgate_postgres_errors_total " in text
            assert "tollgate_redis_errors_total 0.0" in text
            assert await books.read(pg) == books.Books(30, {"requests": 30, "bytes_out": 30_720})

            began = time.monotonic()
            assert await worker.end(signal.SIGTERM) == 0
            assert time.monotonic() - began < 3
            assert "the worker has stopped" in worker.said[-1]
            assert not any("Traceback" in line for line in worker.said)
    finally:
        await pg.close(timeout=5)


async def test_ctrl_c_is_an_orderly_end_too_even_while_waiting(redis_url: str) -> None:
    nowhere = "postgresql://user:s3cret@127.0.0.1:1/none"
    async with running(postgres_url=nowhere, redis_url=redis_url) as worker:
        await worker.until("/ready", lambda status, text: "ConnectionRefusedError" in text)

        assert await worker.end(signal.SIGINT) == 0
        assert "s3cret" not in "".join(worker.said)


async def test_backlog_and_lag_are_told_while_postgres_is_stuck(
    postgres_url: str, redis_url: str, redis: Redis, pg: asyncpg.Connection
) -> None:
    async with pg.transaction():
        await pg.execute("LOCK TABLE usage_hourly IN EXCLUSIVE MODE")
        async with running(postgres_url=postgres_url, redis_url=redis_url) as worker:
            await send(redis, 25)

            _, text = await worker.until("/metrics", lambda status, text: "tollgate_stream_entries 25.0" in text)
            assert float(re.findall(r"^tollgate_stream_lag_seconds (.+)$", text, re.MULTILINE)[0]) < DEADLINE_S


async def test_killed_while_storing_its_batch_is_taken_over_and_counts_once(
    postgres_url: str, redis_url: str, redis: Redis, pg: asyncpg.Connection
) -> None:
    async with pg.transaction():
        await pg.execute("LOCK TABLE usage_hourly IN EXCLUSIVE MODE")
        async with running(postgres_url=postgres_url, redis_url=redis_url) as victim:
            await send(redis, 40)
            async with asyncio.timeout(DEADLINE_S):
                while not await pg.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
            assert await victim.end(signal.SIGKILL) == -signal.SIGKILL

    quick = {"reclaim_after_ms": 100}
    async with running(postgres_url=postgres_url, redis_url=redis_url, worker=quick) as heir:
        await heir.until("/metrics", _has_written(40))

        assert (await books.read(pg)).events == 40
        assert await heir.end(signal.SIGTERM) == 0
    assert sum([await redis.xlen(usage_stream(shard)) for shard in range(16)]) == 0


async def test_a_server_that_hangs_does_not_keep_a_worker_from_stopping(
    postgres_url: str, redis_url: str, redis: Redis, pg: asyncpg.Connection
) -> None:
    """The batches in hand are given up after 3 s and stay pending."""

    async def pending() -> int:
        return sum([(await redis.xpending(usage_stream(shard), CONSUMER_GROUP))["pending"] for shard in range(16)])

    async with line_to(postgres_url) as line:
        async with running(postgres_url=line.url, redis_url=redis_url) as worker:
            async with asyncio.timeout(DEADLINE_S):
                while await pg.fetchval(IDLE_LANES) < LANES:
                    await asyncio.sleep(0.01)
            line.freeze()
            await send(redis, 8)
            async with asyncio.timeout(DEADLINE_S):
                while not await pending():
                    await asyncio.sleep(0.01)

            began = time.monotonic()
            assert await worker.end(signal.SIGTERM) == 0
            assert time.monotonic() - began < STOP_S + 3
        assert await pending() > 0
        assert sum([await redis.xlen(usage_stream(shard)) for shard in range(16)]) == 8


async def test_a_port_in_use_is_a_clear_error(postgres_url: str, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(postgres_url=postgres_url, redis_url=redis_url, worker={"metrics_port": port}) as worker:
            assert await worker.ended() == 1
            assert worker.said[-1].startswith(f"tollgate worker: cannot listen on 127.0.0.1:{port}: ")
            assert "address already in use" in worker.said[-1]
            assert len(worker.said) == 1


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ({}, "postgres_url and redis_url must be set"),
        (
            {"postgres_url": "postgresql://x", "redis_url": "redis://:s3/cret@127.0.0.1:6379/0"},
            "redis_url is not a redis:// URL",
        ),
        ({"postgres_url": "postgresql://x", "redis_url": "http://127.0.0.1"}, "redis_url is not a redis:// URL"),
    ],
)
async def test_unusable_settings_are_a_clear_error(urls: dict[str, str], message: str) -> None:
    async with running(**urls) as worker:
        assert await worker.ended() == 1
        assert worker.said == [f"tollgate worker: {message}\n"]
