"""PostgreSQL and Redis for tests: one embedded pair per pytest process, a fresh database per test.

Databases are copied from a migrated template: 8 ms in memory (/dev/shm), up to 400 ms on a virtual disk. The servers
run under guards that stop them and delete their directories when the test process ends, also when it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import redis

from ledger import names
from ledger.migrate import migrate
from tollgate.dev.embedded import POSTGRES_DATABASE, Server, start_postgres, start_redis

T = TypeVar("T")

_ROOMY_BYTES = 1024**3


def quick_directory(name: str) -> Path:
    """A new folder for a server's data, in memory where there is room. Whoever asks for it removes it."""
    memory = Path("/dev/shm")
    is_roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOMY_BYTES
    return Path(tempfile.mkdtemp(prefix=f"tollgate-test-{name}-", dir=memory if is_roomy else None))


def _started(name: str, start: Callable[..., Server]) -> tuple[Path, Server]:
    directory = quick_directory(name)
    try:
        return directory, start(directory, durable=False, remove=True)
    except BaseException:
        shutil.rmtree(directory)
        raise


class TestPostgres:
    """A server whose own database is the migrated template."""

    __test__ = False

    def __init__(self) -> None:
        self._directory, self.server = _started("postgres", start_postgres)
        self._loop = asyncio.new_event_loop()  # of our own: tests that are not async have databases too
        self._names = itertools.count(1)
        self._run(self._migrate())
        self._admin: asyncpg.Connection = self._run(asyncpg.connect(self._url("postgres")))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def _url(self, database: str) -> str:
        return self.server.url.removesuffix(POSTGRES_DATABASE) + database

    async def _migrate(self) -> None:
        connection = await asyncpg.connect(self.server.url)
        try:
            await migrate(connection)
        finally:
            await connection.close()

    def create_database(self, *, migrated: bool = True) -> str:
        """A new database, migrated or empty; returns its URL."""
        name = f"test_{next(self._names)}"
        template = POSTGRES_DATABASE if migrated else "template1"
        self._run(self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"))
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drop it, ending whatever connections a test left open."""
        self._run(self._admin.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)"))

    def close(self) -> None:
        self._run(self._admin.close(timeout=5))
        self._loop.close()
        self.server.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


def trust(client: redis.Redis, shards: int = 16) -> None:
    """Say what a worker would: that the counters in this Redis are complete."""
    client.mset({names.RUN: client.info("server")["run_id"], **{names.epoch(s): "trusted" for s in range(shards)}})


class TestRedis:
    """A server that keeps nothing on disk."""

    __test__ = False

    def __init__(self) -> None:
        self._directory, self.server = _started("redis", start_redis)
        self._client = redis.Redis.from_url(self.server.url)

    def flush(self) -> None:
        """Forget all keys of the test before; what is empty now is complete, so its counters can be believed."""
        self._client.flushall()
        trust(self._client)

    def close(self) -> None:
        self._client.close()
        self.server.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
