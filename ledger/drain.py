"""The loop of the worker: take a batch from the streams, store it, acknowledge it.

One batch is in hand at a time and nothing is read while it cannot be stored: when Postgres is away the backlog stays in
Redis, which bounds it (gateways refuse requests when a stream is full), never in this process.

    Redis away      wait, then read what is pending for us before anything new
    group lost      make it again from the beginning of the stream
    Postgres away   wait with the batch in hand, read nothing more
    killed          the batch stays pending; this worker, restarted under another name, or another one takes it over
    ack lost        the batch is delivered again and found to be stored already
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Final

from redis.exceptions import RedisError

from ledger.dependency import Dependency
from ledger.ingest import LedgerUnavailable, Writer
from ledger.metrics import IngestMetrics
from ledger.stream import Entry, GroupLost, UsageStream

_PING_AFTER_S: Final = 5.0
"""An idle worker asks Postgres this often whether it is there."""

log = logging.getLogger(__name__)


class Drain:
    """Moves events from one UsageStream to one Writer until told to stop."""

    def __init__(
        self,
        stream: UsageStream,
        writer: Writer,
        redis: Dependency,
        postgres: Dependency,
        metrics: IngestMetrics,
        *,
        batch_size: int,
        reclaim_after_ms: int,
    ) -> None:
        self._stream = stream
        self._writer = writer
        self._redis = redis
        self._postgres = postgres
        self._metrics = metrics
        self._batch_size = batch_size
        self._reclaim_after_ms = reclaim_after_ms
        self._reclaim_at = 0.0
        self._ping_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until `stop` is set; the batch in hand is finished first, unless Postgres is away."""
        prepared = False
        while not stop.is_set():
            try:
                if not prepared:
                    await self._stream.prepare()
                    prepared = True
                entries = await self._take()
                self._redis.up()
                if not entries:
                    await self._ping_when_idle()
                elif await self._store(entries, stop):
                    await self._stream.acknowledge(entries)
            except GroupLost:
                log.warning("the consumer group is gone, making it again")
                prepared = False
            except (RedisError, OSError) as error:
                self._redis.down(type(error).__name__)
                self._stream.replay()
                await self._redis.pause(stop)

    async def _take(self) -> list[Entry]:
        """The next batch: what silent consumers left, when it is time to look, else own pending and new entries."""
        if time.monotonic() >= self._reclaim_at:
            entries, complete = await self._stream.reclaim(self._reclaim_after_ms, self._batch_size)
            if complete:
                await self._stream.remove_silent(self._reclaim_after_ms)
                spread = 0.5 + random.random() / 2  # noqa: S311 - keeps workers from looking at the same moment
                self._reclaim_at = time.monotonic() + self._reclaim_after_ms / 1000 * spread
            if entries:
                self._metrics.reclaimed.inc(len(entries))
                return entries
        return await self._stream.read(self._batch_size)

    async def _store(self, entries: list[Entry], stop: asyncio.Event) -> bool:
        """Store a batch, however long Postgres is away; False if stopped before."""
        while True:
            try:
                await self._writer.store(entries)
            except LedgerUnavailable as error:
                self._postgres.down(str(error))
                if stop.is_set():
                    return False
                await self._postgres.pause(stop)
            else:
                self._postgres.up()
                self._ping_at = time.monotonic() + _PING_AFTER_S
                return True

    async def _ping_when_idle(self) -> None:
        if time.monotonic() < self._ping_at:
            return
        self._ping_at = time.monotonic() + _PING_AFTER_S
        try:
            await self._writer.ping()
        except LedgerUnavailable as error:
            self._postgres.down(str(error))
        else:
            self._postgres.up()
