"""The worker plane: the process that keeps the books. Composition root; runs until SIGTERM or SIGINT.

It drains the usage streams into the ledger in three lanes (one reads and decodes while Postgres works for the others),
keeps partitions ready, trims, sends mail, webhooks and alerts, and serves /health, /ready and /metrics. It may be started
before its servers and before the schema is there: it waits, and /ready says for what. A second one shares the work.

Asked to stop it finishes the batches in hand and exits with status 0; what it could not finish stays pending in Redis
and is taken over by the next worker. A failure nobody foresaw ends the process with status 1, for its supervisor to
start it again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

import asyncpg
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from config.log import setup
from config.settings import Settings, WorkerSettings
from ledger.alerts import raise_alerts
from ledger.dependency import Dependency, wait
from ledger.drain import Drain
from ledger.heal import Healer, HealingFailed
from ledger.ingest import AWAY_ERRORS, Writer, brief
from ledger.mail.post import deliver_due, forget_old
from ledger.mail.transports import transport
from ledger.metrics import IngestMetrics
from ledger.migrate import migrations
from ledger.names import usage_stream
from ledger.partitions import ensure_partitions, trim_changes
from ledger.stream import UsageStream
from ledger.stream import connect as connect_redis
from ledger.sweep import Sweeper
from ledger.vault import Vault, VaultError, vault_of
from ledger.webhooks import post as webhooks
from tollgate.archiving import keep_archiving
from tollgate.billing import keep_billing
from tollgate.lines import Lines

LANES: Final = 3
HOUSEKEEPING_S: Final = 3600.0
BACKLOG_S: Final = 2.0
HEAL_S: Final = 0.5
POST_S: Final = 0.5
"""How often due mail is looked for."""
STOP_S: Final = 3.0
"""Longest wait for the batches in hand when asked to stop; Postgres may be hanging."""

CUT_S: Final = 0.5
"""After that, connections whose server still keeps somebody waiting are cut."""

log = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[asyncpg.Connection]]


def main(settings: Settings) -> None:
    """Run a worker in this process until it is asked to stop. Raises SystemExit."""
    setup(settings, "worker")
    try:
        uvloop.run(_until_signalled(settings))
    except Unusable as error:
        raise SystemExit(f"tollgate worker: {error}") from None
    except Exception:
        log.exception("the worker failed")
        raise SystemExit(1) from None


class Unusable(Exception):
    """The settings do not let a worker run. The message says which and why, without a secret."""


async def _until_signalled(settings: Settings) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    await run(settings, stop)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Wire everything, work until `stop` is set, close in reverse order. Raises Unusable."""
    if settings.postgres_url is None or settings.redis_url is None:
        raise Unusable("postgres_url and redis_url must be set")
    try:
        vault = vault_of(settings)
    except VaultError as error:
        raise Unusable(str(error)) from None
    lines = Lines()
    connect = lines.noting(
        partial(
            asyncpg.connect,
            settings.postgres_url.get_secret_value(),
            timeout=5,
            command_timeout=25,  # beyond the statement_timeout of ingest.sql, for a server that does not even refuse
            server_settings={"application_name": "tollgate-worker"},
        )
    )
    registry = CollectorRegistry()
    metrics = IngestMetrics(registry)
    redis = Dependency("redis", metrics.redis_errors.inc)
    postgres = Dependency("postgres", metrics.postgres_errors.inc)
    streams = [usage_stream(shard) for shard in range(settings.redis_shards)]
    process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    async with AsyncExitStack() as closing:
        try:
            client = connect_redis(settings.redis_url.get_secret_value())
        except ValueError:
            raise Unusable("redis_url is not a redis:// URL") from None
        closing.push_async_callback(client.aclose)
        await closing.enter_async_context(_listening(settings.worker, registry, (postgres, redis)))

        await _wait_for_ledger(connect, postgres, settings.worker.partitions_ahead, stop)
        lanes = []
        for lane in range(LANES):
            stream = UsageStream(client, streams, f"{process}-{lane}")
            writer = Writer(connect, metrics)
            closing.push_async_callback(writer.close)
            lanes.append(
                Drain(
                    stream,
                    writer,
                    redis,
                    postgres,
                    metrics,
                    batch_size=settings.worker.batch_size,
                    reclaim_after_ms=settings.worker.reclaim_after_ms,
                )
            )
        try:
            async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as tasks:
                for number, drain in enumerate(lanes):
                    tasks.create_task(drain.run(stop), name=f"lane {number}")
                tasks.create_task(_keep_house(connect, postgres, settings.worker.partitions_ahead, stop), name="house")
                tasks.create_task(keep_billing(settings, registry, client, lines, process, stop), name="billing")
                tasks.create_task(keep_archiving(settings, lines, stop), name="archive")
                tasks.create_task(_keep_posting(connect, postgres, settings, stop), name="post")
                tasks.create_task(_keep_telling(connect, postgres, settings, vault, stop), name="webhooks")
                tasks.create_task(_keep_alerting(connect, postgres, settings, stop), name="alerts")
                tasks.create_task(_watch_backlog(stream, metrics, stop), name="backlog")
                sweeper = Sweeper(client, settings.redis_shards, settings.worker.orphan_policy)
                interval_s = settings.worker.sweep_interval_ms / 1000
                tasks.create_task(_keep_sweeping(sweeper, interval_s, metrics, stop), name="sweeper")
                healer = Healer(client, connect, settings.redis_shards)
                tasks.create_task(_keep_healing(healer, metrics, stop), name="healer")
                await stop.wait()
                end = asyncio.get_running_loop().time() + STOP_S
                deadline.reschedule(end)
                asyncio.get_running_loop().call_at(end + CUT_S, lines.cut)
        except TimeoutError:
            log.warning("gave up on a batch after %.0f s; it stays pending and is delivered again", STOP_S)
    log.info("the worker has stopped")


async def _wait_for_ledger(connect: Connect, postgres: Dependency, ahead: int, stop: asyncio.Event) -> None:
    """Return when the schema of this release and the partitions are there, or `stop` is set."""
    while not stop.is_set():
        try:
            connection = await connect()
            try:
                if await _has_schema(connection):
                    await ensure_partitions(connection, datetime.now(UTC), ahead)
                    postgres.up()
                    return
                postgres.down("the schema is not there yet (tollgate migrate)")
            finally:
                await connection.close(timeout=5)
        except AWAY_ERRORS as error:
            postgres.down(brief(error))
        await postgres.pause(stop)


async def _has_schema(connection: asyncpg.Connection) -> bool:
    """Whether every migration of this release was applied; more recent ones do not matter."""
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return False
    applied = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    return all(migration.version in applied for migration in migrations())


async def _keep_house(connect: Connect, postgres: Dependency, ahead: int, stop: asyncio.Event) -> None:
    """Every hour: the partitions of the months to come, and old `changes` trimmed."""
    while not stop.is_set():
        try:
            connection = await connect()
            try:
                for name in await ensure_partitions(connection, datetime.now(UTC), ahead):
                    log.info("partition %s made", name)
                await trim_changes(connection)
                await forget_old(connection)
                await webhooks.forget_old(connection)
            finally:
                await connection.close(timeout=5)
        except AWAY_ERRORS as error:
            postgres.down(brief(error))
            await postgres.pause(stop)
        else:
            await wait(stop, HOUSEKEEPING_S)


async def _keep_posting(connect: Connect, postgres: Dependency, settings: Settings, stop: asyncio.Event) -> None:
    """Send mail as it becomes due, on a connection of its own."""
    send, origin = transport(settings.mail), settings.admin.origin

    async def deliver(connection: asyncpg.Connection) -> None:
        while not stop.is_set():
            if not await deliver_due(connection, send, origin):
                await wait(stop, POST_S)

    await _keep(connect, postgres, stop, deliver)


async def _keep_telling(
    connect: Connect, postgres: Dependency, settings: Settings, vault: Vault | None, stop: asyncio.Event
) -> None:
    """Send webhooks as they become due, on a connection of their own."""
    post = webhooks.Post(vault, allow_private=settings.worker.webhooks_to_private)

    async def tell(connection: asyncpg.Connection) -> None:
        while not stop.is_set():
            if not await post.deliver_due(connection):
                await wait(stop, POST_S)

    try:
        await _keep(connect, postgres, stop, tell)
    finally:
        await post.close()


async def _keep_alerting(connect: Connect, postgres: Dependency, settings: Settings, stop: asyncio.Event) -> None:
    """Look for customers that reached a threshold of a quota."""

    async def look(connection: asyncpg.Connection) -> None:
        while not stop.is_set():
            await raise_alerts(connection)
            await wait(stop, settings.worker.alert_interval_ms / 1000)

    await _keep(connect, postgres, stop, look)


async def _keep(
    connect: Connect,
    postgres: Dependency,
    stop: asyncio.Event,
    work: Callable[[asyncpg.Connection], Awaitable[None]],
) -> None:
    """Do `work` on a connection of its own until `stop`; a lost connection is made anew."""
    while not stop.is_set():
        try:
            connection = await connect()
            try:
                await work(connection)
            finally:
                await connection.close(timeout=5)
        except AWAY_ERRORS as error:
            postgres.down(brief(error))
            await postgres.pause(stop)


async def _keep_sweeping(sweeper: Sweeper, interval_s: float, metrics: IngestMetrics, stop: asyncio.Event) -> None:
    """Resolve what dead gateways left held; while Redis is away there is nothing to do."""
    while not stop.is_set():
        try:
            metrics.orphaned.inc(await sweeper.sweep())
        except (RedisError, OSError):
            metrics.redis_errors.inc()
        await wait(stop, interval_s)


async def _keep_healing(healer: Healer, metrics: IngestMetrics, stop: asyncio.Event) -> None:
    """Rebuild counters that Redis has lost."""
    while not stop.is_set():
        try:
            metrics.shards_healed.inc(await healer.look())
        except HealingFailed as error:
            log.error("the counters could not be rebuilt, trying again: %s", error)
        except (*AWAY_ERRORS, RedisError, TimeoutError):
            metrics.redis_errors.inc()
        await wait(stop, HEAL_S)


async def _watch_backlog(stream: UsageStream, metrics: IngestMetrics, stop: asyncio.Event) -> None:
    """Keep the gauges of what is not stored yet; they show the last known value while Redis is away."""
    while not stop.is_set():
        try:
            backlog = await stream.backlog()
        except (RedisError, OSError):
            metrics.redis_errors.inc()
        else:
            oldest_s = time.time() if backlog.oldest_ms is None else backlog.oldest_ms / 1000
            metrics.stream_entries.set(backlog.entries)
            metrics.stream_lag.set(max(0.0, time.time() - oldest_s))
        await wait(stop, BACKLOG_S)


@asynccontextmanager
async def _listening(
    settings: WorkerSettings, registry: CollectorRegistry, dependencies: Sequence[Dependency]
) -> AsyncIterator[None]:
    """Serve /health, /ready and /metrics meanwhile. Raises Unusable if the port cannot be had."""

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        is_ready = all(dependency.is_up for dependency in dependencies)
        states = {dependency.name: dependency.state for dependency in dependencies}
        body = {"status": "ready" if is_ready else "not ready", "dependencies": states}
        return web.json_response(body, status=200 if is_ready else 503)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/ready", ready), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.metrics_port).start()
        except OSError as error:
            raise Unusable(f"cannot listen on {settings.host}:{settings.metrics_port}: {error.strerror}") from None
        host, port = runner.addresses[0][:2]
        log.info("the worker listens on http://%s:%d", host, port)
        yield
    finally:
        await runner.cleanup()
