"""Fixtures of the ledger's tests: a database ready for events around facts.NOW, and writers into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from ledger.ingest import Writer
from ledger.metrics import IngestMetrics
from ledger.partitions import ensure_partitions
from tests.ledger.facts import NOW, NOW_MS, PROJECT


@pytest.fixture
async def ledger(pg: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database with partitions around NOW and one project."""
    await ensure_partitions(pg, NOW)
    await pg.execute("INSERT INTO projects (id, name, kind) VALUES ($1, 'Acme', 'saas')", PROJECT)
    return pg


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> IngestMetrics:
    return IngestMetrics(registry)


@pytest.fixture
def count(registry: CollectorRegistry) -> Callable[..., int]:
    """Reads a metric: count("tollgate_events_written_total")."""

    def read(name: str, **labels: str) -> int:
        return int(registry.get_sample_value(name, labels) or 0)

    return read


@pytest.fixture
async def new_writer(
    ledger: asyncpg.Connection, postgres_url: str, metrics: IngestMetrics
) -> AsyncIterator[Callable[[], Writer]]:
    """Makes writers that believe it is NOW."""
    writers = []

    def make() -> Writer:
        connect = partial(asyncpg.connect, postgres_url, timeout=5, command_timeout=25)
        writers.append(Writer(connect, metrics, now_ms=lambda: NOW_MS))
        return writers[-1]

    yield make
    for writer in writers:
        await writer.close()


@pytest.fixture
def writer(new_writer: Callable[[], Writer]) -> Writer:
    return new_writer()
