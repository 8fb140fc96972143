"""The loop from stream to ledger: every event is stored once whatever goes away, comes back, or is killed when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisAway

from ledger.dependency import Dependency
from ledger.drain import Drain
from ledger.ingest import Writer
from ledger.metrics import IngestMetrics
from ledger.names import CONSUMER_GROUP, STREAM_FIELD, usage_stream
from ledger.stream import Entry, UsageStream, connect
from tests.ledger import books
from tests.ledger.facts import NOW_MS, fact
from tests.ledger.line import line_to

STREAMS = [usage_stream(shard) for shard in range(4)]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


async def send(redis: Redis, *events: dict[str, Any] | bytes) -> None:
    """What gateways do."""
    for number, event in enumerate(events):
        raw = event if isinstance(event, bytes) else orjson.dumps(event)
        await redis.xadd(STREAMS[number % len(STREAMS)], {STREAM_FIELD: raw})


async def until(what: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not await what():
            await asyncio.sleep(0.01)


async def length(redis: Redis) -> int:
    return sum([await redis.xlen(stream) for stream in STREAMS])


async def pending(redis: Redis) -> int:
    return sum([(await redis.xpending(stream, CONSUMER_GROUP))["pending"] for stream in STREAMS])


class Worker:
    """One consumer, wired as the worker plane wires it, with a connection to Redis of its own."""

    def __init__(self, name: str, redis_url: str, postgres_url: str, metrics: IngestMetrics, **settings: int) -> None:
        self.client = connect(redis_url)
        self.stream = UsageStream(self.client, STREAMS, name, block_ms=20, linger_ms=1)
        self.writer = Writer(partial(asyncpg.connect, postgres_url, timeout=5), metrics, now_ms=lambda: NOW_MS)
        self.redis = Dependency("redis", metrics.redis_errors.inc)
        self.postgres = Dependency("postgres", metrics.postgres_errors.inc)
        self.stop = asyncio.Event()
        self.drain = Drain(
            self.stream,
            self.writer,
            self.redis,
            self.postgres,
            metrics,
            **({"batch_size": 50, "reclaim_after_ms": 60_000} | settings),
        )
        self.running = asyncio.create_task(self.drain.run(self.stop), name=f"drain {name}")

    async def finish(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.running, 10)

    async def kill(self) -> None:
        """The nearest thing to kill -9 inside a process: nothing more is said to anybody."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.writer.close()
        await self.client.aclose()


NewWorker = Callable[..., Worker]


@pytest.fixture
async def new_worker(
    ledger: asyncpg.Connection, redis_url: str, postgres_url: str, metrics: IngestMetrics
) -> AsyncIterator[NewWorker]:
    """Makes running workers: new_worker("name", batch_size=…)."""
    workers: list[Worker] = []

    def make(name: str, *, redis: str = redis_url, postgres: str = postgres_url, **settings: int) -> Worker:
        workers.append(Worker(name, redis, postgres, metrics, **settings))
        return workers[-1]

    yield make
    ended = [worker.running for worker in workers if worker.running.done() and not worker.running.cancelled()]
    for worker in workers:
        await worker.kill()
    assert [task.exception() for task in ended] == [None] * len(ended)


async def test_events_go_from_the_stream_into_the_ledger(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker
) -> None:
    await send(redis, *(fact() for _ in range(120)))
    worker = new_worker("a")
    await until(lambda: _is_empty(redis))
    await send(redis, fact(), b"poison", fact())
    await until(lambda: _is_empty(redis))

    await worker.finish()

    assert (await books.read(ledger)).events == 122
    assert len(await books.dead_letters(ledger)) == 1
    assert await pending(redis) == 0


async def _is_empty(redis: Redis) -> bool:
    return await length(redis) == 0


async def test_every_entry_delivered_twice_counts_once(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker, count: Callable[..., int]
) -> None:
    events = [fact() for _ in range(60)]
    await send(redis, *events, *events)

    new_worker("a", batch_size=7)
    await until(lambda: _is_empty(redis))

    assert (await books.read(ledger)).meters["requests"] == 60
    assert count("tollgate_events_written_total") == count("tollgate_duplicates_total") == 60


async def test_two_workers_share_the_stream(ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker) -> None:
    new_worker("a", batch_size=10, reclaim_after_ms=1)  # and take each other's entries all the time
    new_worker("b", batch_size=10, reclaim_after_ms=1)

    await send(redis, *(fact(customer=None, external=f"user-{n % 7}") for n in range(300)))
    await until(lambda: _is_empty(redis))

    assert (await books.read(ledger)).meters["requests"] == 300
    assert await ledger.fetchval("SELECT count(*) FROM customers") == 7


async def test_killed_between_commit_and_acknowledgement(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker, count: Callable[..., int]
) -> None:
    victim = new_worker("victim")
    stored = asyncio.Event()

    async def acknowledge(entries: list[Entry]) -> None:
        stored.set()
        await asyncio.Event().wait()

    victim.stream.acknowledge = acknowledge  # type: ignore[method-assign, assignment]
    await send(redis, *(fact() for _ in range(4)))
    await asyncio.wait_for(stored.wait(), 5)
    await victim.kill()
    before = await books.read(ledger)
    assert before.events > 0
    assert await pending(redis) > 0

    new_worker("heir", reclaim_after_ms=1)
    await until(lambda: _is_empty(redis))

    assert (await books.read(ledger)).meters["requests"] == 4
    assert count("tollgate_duplicates_total") == before.events
    assert await pending(redis) == 0
    await until(lambda: _only_consumer(redis, b"heir"))


async def _only_consumer(redis: Redis, name: bytes) -> bool:
    return all([[i["name"] for i in await redis.xinfo_consumers(s, CONSUMER_GROUP)] == [name] for s in STREAMS])


async def test_an_acknowledgement_that_fails_is_made_up_for(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker
) -> None:
    worker = new_worker("a")
    right = worker.stream.acknowledge
    failures = 2

    async def acknowledge(entries: list[Entry]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise RedisAway("lost")
        await right(entries)

    worker.stream.acknowledge = acknowledge  # type: ignore[method-assign, assignment]
    await send(redis, *(fact() for _ in range(20)))
    await until(lambda: _is_empty(redis))

    assert (await books.read(ledger)).meters["requests"] == 20
    assert worker.redis.is_up


async def test_redis_away_at_the_start_and_later(
    ledger: asyncpg.Connection,
    redis: Redis,
    redis_url: str,
    new_worker: NewWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ledger")
    async with line_to(redis_url) as line:
        await line.cut()
        worker = new_worker("a", redis=line.url)
        await until(lambda: _says(worker.redis, "ConnectionError"))
        await send(redis, *(fact() for _ in range(10)))

        await line.mend()
        await until(lambda: _is_empty(redis))
        assert worker.redis.is_up

        await line.cut()
        await until(lambda: _says(worker.redis, "ConnectionError"))
        await send(redis, *(fact() for _ in range(10)))
        await line.mend()
        await until(lambda: _is_empty(redis))
        await worker.finish()

    assert (await books.read(ledger)).meters["requests"] == 20
    assert [r.getMessage() for r in caplog.records if r.getMessage().startswith("redis")] == [
        "redis is down: ConnectionError",
        "redis is up",
        "redis is down: ConnectionError",
        "redis is up",
    ]


async def _says(dependency: Dependency, text: str) -> bool:
    return text in dependency.state


async def test_postgres_away_holds_one_batch_and_reads_no_more(
    ledger: asyncpg.Connection, redis: Redis, postgres_url: str, new_worker: NewWorker
) -> None:
    async with line_to(postgres_url) as line:
        await line.cut()
        await send(redis, *(fact() for _ in range(100)))
        worker = new_worker("a", postgres=line.url, batch_size=12)
        await until(lambda: _failed_often(worker.postgres))
        assert not worker.postgres.is_up
        assert await pending(redis) == 12
        assert await length(redis) == 100

        await line.mend()
        await until(lambda: _is_empty(redis))
        assert worker.postgres.is_up
        await worker.finish()

    assert (await books.read(ledger)).meters["requests"] == 100


async def _failed_often(dependency: Dependency) -> bool:
    return dependency._attempt >= 4


async def test_postgres_breaking_off_again_and_again_loses_and_doubles_nothing(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker
) -> None:
    new_worker("a", batch_size=5)
    new_worker("b", batch_size=5)

    for _ in range(6):
        await send(redis, *(fact() for _ in range(40)))
        await ledger.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    await until(lambda: _is_empty(redis), 20)

    assert (await books.read(ledger)).meters["requests"] == 240


async def test_a_group_that_is_lost_is_made_again(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker
) -> None:
    worker = new_worker("a")
    await send(redis, fact())
    await until(lambda: _is_empty(redis))

    await redis.flushall()
    await send(redis, *(fact() for _ in range(8)))
    await until(lambda: _is_empty(redis))

    assert (await books.read(ledger)).meters["requests"] == 9
    assert worker.redis.is_up


async def test_asked_to_stop_it_finishes_the_batch_in_hand(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker
) -> None:
    worker = new_worker("a")
    async with _rollup_locked(ledger):
        await send(redis, fact())
        await until(lambda: _is_waiting(ledger))
        worker.stop.set()
    await worker.finish()

    assert (await books.read(ledger)).events == 1
    assert await length(redis) == 0


async def test_asked_to_stop_while_postgres_is_away_it_leaves_the_batch_to_others(
    ledger: asyncpg.Connection, redis: Redis, postgres_url: str, new_worker: NewWorker
) -> None:
    async with line_to(postgres_url) as line:
        await line.cut()
        await send(redis, fact())
        worker = new_worker("a", postgres=line.url)
        await until(lambda: _failed_often(worker.postgres))
        await worker.finish()

    assert await pending(redis) == 1
    new_worker("b", reclaim_after_ms=1)
    await until(lambda: _is_empty(redis))
    assert (await books.read(ledger)).events == 1


@asynccontextmanager
async def _rollup_locked(ledger: asyncpg.Connection) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ledger.transaction())
        await ledger.execute("LOCK TABLE usage_hourly IN EXCLUSIVE MODE")
        yield


async def _is_waiting(ledger: asyncpg.Connection) -> bool:
    return bool(await ledger.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def test_an_idle_worker_knows_whether_postgres_is_there(
    postgres_url: str, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.drain._PING_AFTER_S", 0.01)
    async with line_to(postgres_url) as line:
        worker = new_worker("a", postgres=line.url)
        await until(lambda: _says(worker.postgres, "up"))
        await line.cut()
        await until(lambda: _says(worker.postgres, "Error"))
        await line.mend()
        await until(lambda: _says(worker.postgres, "up"))
        await worker.finish()


async def test_a_redis_that_stalls_is_given_up_on_and_what_it_handed_out_meanwhile_is_read_again(
    ledger: asyncpg.Connection, redis: Redis, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.stream._DEADLINE_S", 0.1)
    worker = new_worker("a")
    await until(lambda: _says(worker.redis, "up"))

    await redis.client_pause(500)  # commands wait, and are carried out for a client that has hung up
    await asyncio.gather(
        send(redis, *(fact() for _ in range(30))),
        until(lambda: _says(worker.redis, "TimeoutError")),
    )
    await until(lambda: _is_empty(redis))

    assert (await books.read(ledger)).meters["requests"] == 30
    assert worker.redis.is_up
