"""The worker's billing: slots sealed, entries delivered, reports taken, books reconciled, each in its own rhythm.

Postgres away or Stripe away ends nothing: both are tried again, with pauses. Without a Stripe key slots are sealed and
wait. Everything works with any number of workers at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from config.settings import Settings
from ledger.billing.seal import seal
from ledger.dependency import Dependency, wait
from ledger.ingest import AWAY_ERRORS, brief
from ledger.metrics import BillingMetrics
from ledger.reconcile.nightly import reconcile_if_due
from tollgate.lines import Lines

if TYPE_CHECKING:
    from ledger.billing.door import Door

SEAL_S: Final = 15.0
WATCH_S: Final = 30.0
REPORTS_S: Final = 300.0
NOTICES_S: Final = 2.0
NIGHTLY_CHECK_S: Final = 900.0
RECONCILE_S: Final = 3600.0
"""Longest statement of a reconciliation, which reads a month's events."""
_CONNECTIONS: Final = 4

log = logging.getLogger(__name__)


async def keep_billing(
    settings: Settings, registry: CollectorRegistry, redis: Redis, lines: Lines, name: str, stop: asyncio.Event
) -> None:
    """Bill until `stop` is set. `name` is this worker's, in leases."""
    assert settings.postgres_url is not None
    metrics = BillingMetrics(registry)
    postgres = Dependency("postgres (billing)")
    async with AsyncExitStack() as closing:
        url = settings.postgres_url.get_secret_value()
        connect = lines.noting(partial(asyncpg.connect, url, timeout=5, command_timeout=RECONCILE_S))
        pool: Any = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=_CONNECTIONS,
            timeout=5,
            command_timeout=25,
            server_settings={"application_name": "tollgate-billing"},
        )
        await pool
        lines.note_pool(pool)
        closing.callback(pool.terminate)  # closing in order would wait for a server that hangs

        async def seal_all() -> int:
            async with pool.acquire() as connection:
                done = await seal(connection, datetime.now(UTC))
            metrics.sealed.inc(done)
            return done

        door: Door | None = None
        if settings.stripe.keys:
            from ledger.billing.door import Door  # the stripe library takes a third of a second to import

            door = Door(settings.stripe.keys, metrics, base_url=settings.stripe.api_url)
            closing.push_async_callback(door.close)

        async def reconcile_nightly() -> None:
            if await reconcile_if_due(connect, redis, settings.redis_shards, door, metrics):
                log.info("reconciled")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_keep(_none(reconcile_nightly), NIGHTLY_CHECK_S, postgres, stop), name="reconciliation")
            tasks.create_task(_keep(seal_all, SEAL_S, postgres, stop), name="sealing")
            if door is not None:
                from ledger.billing.deliver import Sender
                from ledger.billing.reports import Reports

                sender = Sender(
                    pool,
                    door,
                    metrics,
                    name=name,
                    per_second=settings.stripe.requests_per_second,
                    at_once=settings.stripe.concurrency,
                )
                interval_s = settings.stripe.send_interval_ms / 1000
                tasks.create_task(_keep(sender.send_due, interval_s, postgres, stop), name="sending")
                tasks.create_task(_keep(_none(sender.watch), WATCH_S, postgres, stop), name="watching entries")
                reports = Reports(pool, door, metrics)
                tasks.create_task(_keep(reports.handle_notices, NOTICES_S, postgres, stop), name="notices of Stripe's")
                tasks.create_task(_keep(_none(reports.ask), REPORTS_S, postgres, stop), name="error reports")


def _none(work: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[int]]:
    """Work that is done for now when it returns."""

    async def done() -> int:
        await work()
        return 0

    return done


async def _keep(
    work: Callable[[], Awaitable[int]], interval_s: float, postgres: Dependency, stop: asyncio.Event
) -> None:
    """Work again and again: at once while there is more, else every `interval_s`.

    A failure nobody foresaw is logged and tried again like any other: ingest in the same process goes on.
    """
    while not stop.is_set():
        try:
            more = await work()
            postgres.up()
        except AWAY_ERRORS as error:
            postgres.down(brief(error))
            more = -1
        except Exception:
            log.exception("billing failed at one thing, and tries again")
            more = -1
        if more < 0:
            await postgres.pause(stop)
        elif not more:
            await wait(stop, interval_s)
